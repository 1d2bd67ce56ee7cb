"""A million operations in a row, in a thread with a small stack, in a process of its own, which a crash would end."""

import subprocess
import sys
import textwrap

DEEP = """
    import copy, pickle, sys, threading
    import pea
    from pea import Value

    n = 1_000_000

    def chain():
        x, w, b = Value(1.0), Value(0.5), Value(1.0)
        out = x
        for _ in range(n // 2):
            out = out * w + b
        out.backward()
        assert abs(out.data - 2.0) < 1e-9
        assert abs(b.grad - 2.0) < 1e-9 and abs(w.grad - 4.0) < 1e-9, (b.grad, w.grad)
        assert repr(out) == "Value(2.0, grad=1.0)"
        for refused in (copy.copy, copy.deepcopy, pickle.dumps):
            try:
                refused(out)
            except TypeError as error:
                assert "only leaves" in str(error)
            else:
                raise AssertionError(refused)
        assert len(pea.viz.source(out, depth=3).splitlines()) < 50
        del out
        print("chain freed")

    def wide():
        xs = [Value(1.0) for _ in range(n)]
        total = pea.sum(xs)
        total.backward()
        assert total.data == n and all(x.grad == 1.0 for x in xs)
        del total
        print("sum freed")

    def long():
        total = 0
        x = Value(1.0)
        for _ in range(n):
            total = total + x
        total.backward()
        assert total.data == n and x.grad == n
        del total
        print("additions freed")

    # From 3.13 on CPython lets nested frees go thousands deep, where bare tuples need over 256 KiB as well.
    threading.stack_size((1024 if sys.version_info >= (3, 13) else 128) * 1024)
    failed = []
    threading.excepthook = lambda args: failed.append(args.exc_value)
    for job in (chain, wide, long):
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()
    if failed:
        raise failed[0]
"""


def test_a_million_operations_and_terms() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(DEEP)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["chain freed", "sum freed", "additions freed", ""]
