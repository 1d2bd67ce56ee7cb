"""Try bad input, faults and hostile files on every command, and see that each ends as documented.

    python scripts/proof/attack.py                      all trials, some minutes
    python scripts/proof/attack.py --kind work          the trials of one kind
    python scripts/proof/attack.py --only "fifo.*init"  those whose name matches; few: with their output
    python scripts/proof/attack.py -n 60 --seed 1       a sample

Each trial runs in a copy of a small world, in a fork of one process that has torch loaded. For every trial holds: it
ends in time with an expected exit code; it shows no traceback, no "bug in pealm", no control character and no forged
line; and all files that existed before are there afterwards, byte for byte, except those that the trial may change.
Prints each trial that fails and a count by kind; ends with 1 if any fails.
"""

import argparse
import errno
import fcntl
import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no threads, which a fork would lose

Do = Callable[[], object]
MEMORY = 3 * 2**30  # bytes of address space for a trial, beyond what this process has
MACROS = {
    "TRAIN": "train char-bigram --input.text T --steps 20 --batch-size 4 --eval-tokens 64",
    "GPT2": "train gpt2 --tokenizer char --input.text T --steps 2 --batch-size 2 --eval-tokens 64"
    " --model.n-layer 1 --model.n-embd 16 --model.n-head 2 --model.block-size 16",
    "EVAL": "eval --ckpt R --on perplexity --input.text T",
}
STEP = "R/checkpoints/step-00000020"


def nothing() -> None:
    pass


def anything(out: str, err: str) -> None:
    pass


@dataclass(frozen=True)
class Trial:
    """A command line and how it must end.

    line: words; `&&` separates commands, and the word `python` precedes code. codes: exit codes; None: it need not
    end. setup: makes the trial's files, in its folder. fault: changes the process. needs, never: regular expressions
    for the output. may: paths that may change. keeps: paths in these that may not. after: a check of stdout and
    stderr that raises AssertionError. stdout: "file", "full", "closed", "broken" or "pty"; stderr_too: the same for
    stderr. own: a bug in pealm may be shown, because the trial made one.
    """

    name: str
    line: Sequence[str]
    codes: Sequence[int | None] = (0, 2)
    setup: Do = nothing
    fault: Do = nothing
    needs: str = ""
    never: str = ""
    may: Sequence[str] = ()
    keeps: Sequence[str] = ()
    after: Callable[[str, str], object] = anything
    stdout: str = "file"
    stderr_too: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 20.0
    own: bool = False
    kind: str = ""


def cross(table: str, cases: Mapping[str, Any] | None = None, **rest: Any) -> Iterator[Trial]:
    """Yield a trial for every line of a table, `COMMAND -> EXIT CODES` (default: 0 2), with every case.

    A case is the text that X stands for in the command, a setup, or a dict of a trial's fields.
    """
    for line in filter(str.strip, table.splitlines()):
        command, _, codes = line.partition(" -> ")
        for name, case in (cases or {"": {}}).items():
            words = fill(command, case if isinstance(case, str) else "")
            more = case if isinstance(case, dict) else {"setup": case} if callable(case) else {}
            wanted = {"codes": tuple(map(int, codes.split()))} if codes else {}
            yield Trial(f"{name}: {command.strip()}", words, **{**rest, **wanted, **more})


def fill(command: str, value: str = "") -> list[str]:
    """Return a command's words, with the macros replaced, and X as a word or at the end of one by a value."""
    words = [part for word in command.split() for part in MACROS.get(word, word).split()]
    return [value if word == "X" else re.sub(r"(?<=[./])X(?=$|\.)", lambda _: value, word) for word in words]


# ---------------------------------------------------------------- the world that each trial gets a copy of

# T: text, S: shards, R: run, G: run of a gpt2, W: weights only, H: the gpt2 as Hugging Face has it, mine: the user's
BASE = """
TRAIN --sample-every 10 --out R
GPT2 --out G
convert R W
convert G H --to hf
EVAL --output R/eval.json
"""


def make_world() -> None:
    """Make the world's files in the current folder."""
    import numpy as np

    write("T", "the quick brown fox jumps over the lazy dog\n" * 60)
    write("mine/thesis.txt", "years of work\n")
    write("mine/.notes.tmp", "more of it\n")
    Path("S").mkdir()
    for split in ("train", "val"):
        np.save(f"S/{split}.npy", np.arange(400, dtype=np.uint16) % 20)
    for trial in cross(BASE):
        code, out, err = run_child(trial, Path.cwd())
        if code:
            sys.exit(f"{trial.name}: exit {code}\n{out}{err}")


def write(name: str, content: str | bytes = "x\n") -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def content(data: str | bytes) -> Callable[[str], object]:
    return lambda name: write(name, data)


def link(target: str) -> Callable[[str], object]:
    return lambda name: Path(name).symlink_to(Path(target).absolute() if Path(target).exists() else target)


def listen(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)


def edit(name: str, old: str, new: str) -> None:
    """Replace in a file what a regular expression matches; it has to match."""
    text, count = re.subn(old, lambda _: new, Path(name).read_text())
    assert count, f"{name} has no {old}"
    Path(name).write_text(text)


def sign(folder: str) -> None:
    """Give a checkpoint the hashes of its files, as whoever changed them on purpose would."""
    state = json.loads(Path(folder, "state.json").read_text())
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "state.json"]
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    state["files"] = {str(path.relative_to(folder)): [path.stat().st_size, hashes[path]] for path in paths}
    Path(folder, "state.json").write_text(json.dumps(state))


def instead(name: str, make: Callable[[str], object], signed: str = "") -> Do:
    """Return a setup that makes something else in a file's place. signed: the checkpoint that it is part of."""

    def setup() -> None:
        if Path(name).is_dir():
            shutil.rmtree(name)
        Path(name).unlink(missing_ok=True)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        make(name)
        if signed:
            sign(signed)

    return setup


def both(*setups: Do) -> Do:
    return lambda: [setup() for setup in setups]


# What a path can be instead of the file that it should be, and what a file can hold.
ENDLESS: dict[str, Callable[[str], object]] = {
    "a fifo": os.mkfifo,
    "a socket": listen,
    "endless": link("/dev/zero"),
    "a folder": lambda name: Path(name).mkdir(),
    "a loop": lambda name: Path(name).symlink_to(Path(name).name),
}
DEEP, LONG = "[" * 5000 + "]" * 5000, "9" * 5000
GARBAGE: dict[str, Callable[[str], object]] = {
    "empty": content(""),
    "not UTF-8": content(b"\xff\xfe{}\n" * 9),
    "a list": content("[1]"),
    "deep": content(DEEP),
    "NaN": content('{"step": NaN, "status": NaN, "files": NaN, "val_loss": NaN, "parameters": NaN, "text": NaN}\n'),
    "wrong types": content('{"step": [], "status": {}, "files": 3, "val_loss": "x", "parameters": "many"}\n'),
    "huge": content(f'{{"step": 1e308, "status": {LONG[:4000]}, "tokens": {LONG[:400]}, "seconds": {LONG[:400]}}}\n'),
    "escapes": content(r'{"step": 1, "status": "\u001b[2J\nFORGED", "text": "\u001b[2J", "device": "\u001b"}'),
    "missing": lambda name: None,
}
NAMES = {
    "not UTF-8": "\udcff\udcfe",
    "300 bytes": "n" * 300,
    "empty": "",
    "escape and new line": "\x1b[31m\nFORGED",
    "parent": "..",
    "dash and braces": "-x%s{0}[*",
}
CONTROL = {"new line": "a\nFORGED", "escape": "\x1b[31mred", "right to left": "\u202egnp"}
NUMBERS = {n[:12]: n for n in ("-1", "nan", "inf", "1e400", "1e-320", "10" * 10, LONG, "٣")}


# ---------------------------------------------------------------- 1. the user's files are the user's

STRAYS = """thesis.txt .notes.tmp best.old .best.old best/notes.txt checkpoints/notes.txt sub/a.txt .config.toml.swp
best/tokenizer/mine.txt checkpoints/step-00000020/mine.txt .step-1.tmp config.toml.bak"""
OURS = """config.toml run.json metrics.jsonl samples.jsonl .lock .pealm best/model.safetensors best/state.json best
best/tokenizer/chars.json checkpoints/step-00000020/optimizer.safetensors checkpoints"""

OCCUPIED = "R R/best R/checkpoints G W mine mine/thesis.txt T R/config.toml"


def files() -> Iterator[Trial]:
    clean = """
    clean R --yes -> 0
    clean . --yes -> 0
    clean R --keep-best --yes -> 0"""
    for name in STRAYS.split():
        yield from cross(clean, {name: partial(write, f"R/{name}")}, may=("R", "G"), keeps=(f"R/{name}",))
    outputs = "report R --output X -> 2 \n EVAL --output X -> 2"
    yield from cross(outputs, {f"onto {name}": f"R/{name}" for name in OURS.split()})
    yield from cross(
        "report R --output X -> 2 \n eval --ckpt W --on perplexity --input.text T --output X -> 2",
        {f"onto {name}": name for name in ("W/model.safetensors", "G/config.toml", "T")},
    )
    places = {place: place for place in OCCUPIED.split()}
    yield from cross("convert R X -> 2 \n convert G X --to hf -> 2 \n convert H X --from hf -> 2", places)
    yield from cross("TRAIN --out X --seed 7 -> 2", {p: p for p in places if p not in ("mine", "R/checkpoints")})
    yield from cross("clean mine --yes -> 0\n clean T --yes -> 2\n TRAIN --out mine -> 0 2")
    named = both(*(partial(write, f"mine/{name}", "mine") for name in ("metrics.jsonl", "run.json", "best/x")))
    yield from cross("TRAIN --out mine -> 2", {"a folder has names of ours": named})
    line = "train --out R/best -> 2 \n train --out W -> 2 \n train --out R/checkpoints/step-00000020 -> 2"
    yield from cross(line, {"a checkpoint is not a run": {}})
    dangling = partial(Path.symlink_to, Path("L"), "mine/new")
    yield from cross("convert R L -> 2 \n convert G L --to hf -> 2", {"onto a dangling link": dangling})
    best = both(partial(edit, "R/best/state.json", r'"best_loss": [\d.]+', '"best_loss": -1'), partial(sign, STEP))
    again = "train --out R --steps 30 --eval-every 5 && EVAL -> 0 2"
    yield from cross(again, {"best/ is not replaced by worse weights": best}, may="R", keeps=("R/best",))
    again = "clean R --keep-best --yes && TRAIN --out R --eval-every 5 -> 0 2"
    yield from cross(again, {"best/ survives cleaning": best}, may="R", keeps=("R/best/model.safetensors",))


# ---------------------------------------------------------------- 2. what a stranger made stays inside itself

USERS = """
sample --ckpt R -n 3 -> 0 1 2
report R --output page.html -> 0 2
runs . -> 0
clean . --dry-run -> 0 1
train --out R --steps 22 -> 0 1 2
clean R --yes -> 0 1 2
clean R --keep-best --yes -> 0 1 2
convert R N -> 0 1 2
"""
PLACES = """.lock .pealm config.toml .config.toml.tmp run.json metrics.jsonl samples.jsonl loss.png
best/model.safetensors checkpoints best checkpoints/step-00000020 best/tokenizer .best.tmp"""


HEADERS = {
    "overlap": b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], '
    b'"data_offsets": [8, 24]}}',
    "beyond the end": b'{"a": {"dtype": "F32", "shape": [9999], "data_offsets": [0, 39996]}}',
    "negative shape": b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
    "8 bits": b'{"table.weight": {"dtype": "F8_E4M3", "shape": [64, 64], "data_offsets": [0, 4096]}}',
    "shape overflows": b'{"a": {"dtype": "F32", "shape": [1099511627776, 1099511627776], "data_offsets": [0, 4096]}}',
    "escapes": b'{"\\u001b[2J\\nFORGED": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}}',
    "a list": b"[1, 2]",
    "odd metadata": b'{"__metadata__": [1]}',
}


def terabyte(name: str) -> None:
    """Make a sparse file: a terabyte that takes no room."""
    with Path(name).open("wb") as file:
        file.truncate(2**40)


def strangers() -> Iterator[Trial]:
    for place in PLACES.split():
        target = "mine" if place in PLACES.split()[-5:] else "mine/thesis.txt"
        yield from cross(USERS, {f"{place} is a link": instead(f"R/{place}", link(target))}, may="R")
    named = """
    runs . -> 0
    report X --output p.html -> 0
    sample --ckpt X -n 3 -> 0
    clean . --dry-run -> 0
    train --out X --steps 22 -> 0
    convert X N -> 0
    train --config X -> 2"""
    for name, odd in CONTROL.items():
        yield from cross(named, {f"a run's name has {name}": odd}, setup=partial(os.rename, "R", odd), may=("R", odd))
        for key, pattern in {
            "model": '"char-bigram"',
            "input": "^text(?= =)|(?<=\n)text(?= =)",
            "path": '"T"',
        }.items():
            bad = partial(edit, "R/config.toml", pattern, json.dumps(odd))
            worse = partial(edit, "R/best/config.toml", pattern, json.dumps(odd))
            case = {f"{key} has {name}": both(bad, worse, partial(sign, "R/best"))}
            yield from cross(USERS.partition("train")[0], case, may="R")
    for name, header in HEADERS.items():
        bad = partial(write, "R/best/model.safetensors", struct.pack("<Q", len(header)) + header + b"\0" * 4096)
        case = {f"tensors: {name}": both(bad, partial(sign, "R/best"))}
        yield from cross("sample --ckpt R -n 2 -> 2 \n convert R N -> 2", case, may="R")
    for place in ("run.json", "metrics.jsonl", "samples.jsonl", "config.toml", "other.json", "best/state.json"):
        yield from cross(USERS, {f"{place} is a terabyte": instead(f"R/{place}", terabyte)}, may="R")
    for name in (r"\u0000", r"\ud800", "n" * 5000):
        listed = partial(edit, "R/best/state.json", '"files": {', f'"files": {{"tokenizer/{name}": [1, "0"], ')
        yield from cross(
            "sample --ckpt R -n 3 -> 2\n clean R --yes -> 0", {f"state.json lists {name:.9}": listed}, may="R"
        )
    screen = both(partial(write, "T", "a\x1b[2Jb\x07c" * 300), partial(shutil.rmtree, "R"))
    line = "TRAIN --out R && sample --ckpt R -n 50 --seed 1 && sample --ckpt R -n 50 --num-samples 2 -> 0"
    yield from cross(
        line, {"a model that writes escapes to a terminal": screen}, may="RT", stdout="pty", never="\x1b\\[2J|\x07"
    )
    for name in ("../evil", "/tmp/evil", "tokenizer/../../../mine/thesis.txt", "../../mine/thesis.txt"):
        listed = partial(edit, "R/best/state.json", '"files": {', f'"files": {{{json.dumps(name)}: [1, "0"], ')
        line = "sample --ckpt R -n 3 -> 0 2\n clean R --yes -> 0\n clean R/best --yes -> 0\n convert R N -> 0 2"
        yield from cross(line, {f"state.json lists {name}": listed}, may="R")


# ---------------------------------------------------------------- 3. work is not lost, least of all silently


def work() -> Iterator[Trial]:
    fault: Do
    train = "TRAIN --save-every 5 --eval-every 5 --out N"
    ends: dict[str, Any] = {"after": partial(saved, "N", "interrupted"), "needs": "resume with"}
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"):
        number = getattr(signal, name)
        send = partial(os.kill, 0, number)
        for place in ("Trainer.gradients", "Trainer.validate", "Saver.save"):
            yield from cross(
                f"{train} -> {128 + number}", {f"{name} in {place}": {"fault": at(place, 3, send)}}, **ends
            )
        two = at("Trainer.gradients", 3, both(send, partial(os.kill, 0, signal.SIGTERM)))
        yield from cross(f"{train} -> {128 + number} 143", {f"{name}, then SIGTERM": {"fault": two}}, **ends)
    done = {"after": partial(saved, "N", "done")}
    for stdout, codes in {"full": "0 1", "broken": "0", "pty": "0"}.items():
        for both_streams in (False, True):
            name = f"{'stdout and stderr are' if both_streams else 'stdout is'} {stdout}"
            yield from cross(f"{train} -> {codes}", {name: {"stdout": stdout, "stderr_too": both_streams, **done}})
    for name, module, function, numbers, when, times in REFUSALS:
        for number in numbers.split():
            fault = partial(refuse, module, function, getattr(errno, number), when, times)
            early = times == 1 and (function == "replace" or "cache" in name)  # the config, before the first step
            codes = "0 1 2" if early else "0"
            after = done if codes == "0" else {}
            yield from cross(
                f"{train} -> {codes}", {f"{name} {number}": {"fault": fault, **after}}, never="in use by"
            )
    cannot = "could not be written|can't be written|vanished"
    for function in ("rename", "fsync", "mkdir", "open"):
        fault = at("Trainer.gradients", 3, partial(refuse, os, function, errno.EIO, always, 999))
        yield from cross(f"{train} -> 1", {f"every {function} fails": {"fault": fault}}, needs=cannot)
    limit = at("Trainer.gradients", 3, partial(resource.setrlimit, resource.RLIMIT_FSIZE, (300, 300)))
    yield from cross(f"{train} -> 1", {"no file may grow": {"fault": limit}}, needs=cannot)
    gone = at("Trainer.gradients", 3, partial(shutil.rmtree, "N"))
    yield from cross(f"{train} -> 1", {"the run's folder vanishes": {"fault": gone}}, needs=cannot)
    messes: dict[str, Do] = {
        "checkpoints vanish": partial(shutil.rmtree, "N/checkpoints", True),
        "best becomes a link": both(partial(shutil.rmtree, "N/best", True), lambda: link("mine")("N/best")),
        "the folder is left": partial(os.chdir, "/"),
        "the text vanishes": partial(Path.unlink, Path("T")),
        "the cache vanishes": partial(shutil.rmtree, "cache"),
        "no more threads": no_threads,
        "few open files": partial(resource.setrlimit, resource.RLIMIT_NOFILE, (8, 4096)),
    }
    for name, mess in messes.items():
        case = {f"in step 7, {name}": {"fault": at("Trainer.gradients", 7, mess)}}
        yield from cross(f"{train} -> 0 1", case, may="T", never=r"\[Errno")
    for key, value in {
        "step": "20.5",
        "seconds": '"x"',
        "best_loss": "null",
        "world_size": "64",
        "val_loss": "[]",
    }.items():
        state = partial(edit, f"{STEP}/state.json", rf'"{key}": [\d.e-]+', f'"{key}": {value}')
        yield from cross("train --out R --steps 22", {f"{key} is {value}": state}, may="R")
    for name, make in GARBAGE.items():
        yield from cross(
            "train --out R --steps 22", {f"metrics are {name}": instead("R/metrics.jsonl", make)}, may="R"
        )
    for error in (ValueError("x"), MemoryError(), SystemExit(0), GeneratorExit()):
        fault = at("Trainer.gradients", 8, partial(throw, error))
        case = {f"{error!r} in step 8": {"fault": fault, "after": partial(saved, "N", "failed")}}
        yield from cross(f"{train} -> 1 3", case, own=True)
    dead = partial(edit, "R/run.json", '"done"', '"running"')
    yield from cross("runs . -> 0 \n clean . --dry-run -> 0", {"a dead run": dead}, may="R", never="running|in use")


def no_threads() -> None:
    """Let no thread start any more."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start  # type: ignore[method-assign]


def always(*args: Any, **kwargs: Any) -> bool:
    return True


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


REFUSALS: list[tuple[str, Any, str, str, Callable[..., bool], int]] = [
    ("fsync of folders", os, "fsync", "EINVAL ENOSYS EPERM", is_folder, 999),
    ("chmod", os, "chmod", "EPERM EOPNOTSUPP", always, 999),
    ("flock", fcntl, "flock", "ENOLCK ENOSYS EOPNOTSUPP", always, 999),
    ("hard links", os, "link", "EPERM EXDEV EMLINK ENOSYS", always, 999),
    ("one rename", os, "rename", "EIO EBUSY EACCES ENOSPC", lambda path, *rest: "/cache/" not in str(path), 1),
    ("one rename of the token cache", os, "rename", "EIO ENOSPC", lambda path, *rest: "/cache/" in str(path), 1),
    ("one replace", os, "replace", "EIO EACCES", always, 1),
    ("one mkdir", os, "mkdir", "ENOSPC EIO", lambda path, *rest: ".step" in str(path), 1),
    ("one rmdir", os, "rmdir", "EBUSY ENOTEMPTY EIO", always, 1),
    ("one unlink", os, "unlink", "EBUSY EIO", always, 1),
]


def throw(error: BaseException) -> None:
    raise error


def refuse(module: Any, name: str, number: int, when: Callable[..., bool], times: int) -> None:
    """Let a system call fail so many times, where `when` says so."""
    real, count = getattr(module, name), iter(range(times))

    def call(*args: Any, **kwargs: Any) -> Any:
        if when(*args) and next(count, None) is not None:
            raise OSError(number, os.strerror(number), args[0] if isinstance(args[0], str) else None)
        return real(*args, **kwargs)

    setattr(module, name, call)


def at(place: str, count: int, do: Do) -> Do:
    """Return a fault that does something in the given call of a method of training."""

    def fault() -> None:
        from pealm_core.training import saving, trainer

        kind, _, name = place.partition(".")
        owner = getattr(trainer, kind, None) or getattr(saving, kind)
        real, calls = getattr(owner, name), iter(range(1, 10**9))

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == count:
                do()
            return real(*args, **kwargs)

        setattr(owner, name, call)

    return fault


def saved(run: str, status: str, out: str, err: str) -> None:
    """Check that a run says how it ended, and that its newest checkpoint is valid and of the last step."""
    from pealm_core.checkpoints import folder as checkpoint

    told = json.loads(Path(run, "run.json").read_text())["status"]
    assert told == status, f"run.json says {told!r} instead of {status!r}"
    newest, wrong = checkpoint.newest(Path(run))
    last = json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert newest is not None and not wrong, f"no valid checkpoint: {wrong}"
    behind = 5 if status == "failed" else 0
    assert int(newest.name[5:]) >= last - behind, f"{newest.name} is saved and step {last} was made"


# ---------------------------------------------------------------- 4. everything ends, in bounded time and memory

INPUTS = """
train --config odd -> 2
TRAIN --init odd -> 2
TRAIN --init odd.pt -> 2
TRAIN --init odd.safetensors -> 2
TRAIN --out odd
train char-bigram --input.text odd --steps 2 -> 2
train char-bigram --input.npy-shards odd --steps 2 -> 2
sample --ckpt odd -> 2
sample --ckpt R --prompt-file odd -n 2 -> 2
sample --ckpt R --tokenizer-dir odd -n 2
convert odd N -> 2
convert odd N --from hf -> 2
report odd -> 2
runs odd
clean odd --yes
eval --ckpt R --on perplexity --input.text odd -> 2
plugins check odd -> 2
"""
INSIDE = """config.toml run.json metrics.jsonl samples.jsonl .lock other.json loss.png best/config.toml
best/state.json best/model.safetensors best/tokenizer/chars.json checkpoints/step-00000020/state.json"""
SIZES = "model.n-layer model.n-embd model.n-head model.block-size batch-size block-size"
SAMPLING = "max-new-tokens num-samples top-k top-p temperature seed"
TRAINING = "steps max-seconds lr warmup-steps seed"
MODULES = {
    "sleeps": "import time; time.sleep(99)",
    "never stops": "while True: pass",
}
YIELDING = """import itertools
from pealm_core import DatasetSpec, hookimpl
@hookimpl
def pealm_datasets():
    for i in itertools.count(): yield DatasetSpec(name=f'd{i}', summary='odd', factory='a:b')"""


def bounds() -> Iterator[Trial]:
    for name, make in ENDLESS.items():
        for end in (".pt", ".safetensors", ""):
            table = [line for line in INPUTS.splitlines() if f"odd{end} " in line]
            yield from cross("\n".join(table), {f"{name}{end}": instead(f"odd{end}", make)}, may=("odd",))
    for place in INSIDE.split():
        yield from cross(USERS, {f"{place} is a fifo": instead(f"R/{place}", os.mkfifo)}, may="R")
    for option in SIZES.split():
        numbers = {n[:22]: n for n in ("1000000000", "99999999999999999999", LONG, "-1", "0", "nan")}
        yield from cross(f"GPT2 --out N --{option} X -> 1 2", numbers, seconds=10)
    for option in SAMPLING.split():
        yield from cross(f"sample --ckpt R{' -n 2' * (option[0] != 'm')} --{option} X -> 0 2", NUMBERS)
    for option in TRAINING.split():
        yield from cross(f"train char-bigram --input.text T --{option} X --print-config -> 0 2", NUMBERS)
    yield from cross("EVAL --limit X -> 0 2 \n clean R --dry-run --older-than X -> 0 2", NUMBERS)
    for key, theirs in {"block-size": "n_positions", "n-embd": "n_embd", "n-layer": "n_layer"}.items():
        for number in ("1000000000", "99999999999999999999", "-1", "0", '"x"', "true"):
            ours = partial(edit, "G/best/config.toml", rf"(?m)^{key} = \d+", f"{key} = {number}")
            case: dict[str, Any] = {f"{key} is {number}": both(ours, partial(sign, "G/best"))}
            yield from cross("sample --ckpt G -n 2 -> 1 2", case, may="G", seconds=10)
            foreign = partial(edit, "H/config.json", rf'"{theirs}": \d+', f'"{theirs}": {number}')
            yield from cross("convert H N --from hf -> 1 2", {f"{theirs} is {number}": foreign}, may="H", seconds=10)
    huge = instead("odd.safetensors", content(struct.pack("<Q", 2**62) + b"{}"))
    yield from cross("TRAIN --init odd.safetensors -> 2", {"a header of 2^62 bytes": huge})
    modules = {f"a plugin that {name}": plugin(source) for name, source in MODULES.items()}
    line = (
        "plugins \n train char-bigram --input.text T --print-config"  # the user ends it, after a line that says how
    )
    yield from cross(line, modules, codes=(None,), needs="odd.*PEALM_DISABLE_PLUGINS=odd", seconds=6.5)
    endless = {"a plugin that yields for ever": plugin(YIELDING)}
    yield from cross(line, endless, codes=(0,))
    big = partial(write, "T", "the quick brown fox jumps over the lazy dog\n" * 500_000)
    case = {"22 MB of text in 400 MB": {"setup": big, "fault": partial(limit_memory, 400 * 2**20)}}
    yield from cross("TRAIN -> 0", case, may="T", seconds=60)


def limit_memory(more: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


# ---------------------------------------------------------------- 5. "a bug in pealm" is said only of one

NAMED = """
X
train X
train char-bigram --input.text X
TRAIN --out X
train --config X
TRAIN --preset X
train char-bigram --steps 2 --input.X T
TRAIN --tokenizer X
TRAIN --optimizer X
TRAIN --init X
sample --ckpt X
sample --ckpt R -n 2 --prompt X
sample --ckpt R -n 2 --prompt-file X
sample --ckpt R -n 2 --stop X
sample --ckpt R --tokenizer-dir X -n 2
sample --ckpt R --model.X 3 -n 2
eval --ckpt R --on X
EVAL --output X
convert X N
convert R X
convert R N --to X
report X
report R --output X
runs X
clean X --dry-run
new-plugin model X
plugins show X
prepare X
TRAIN --sample-every 10 --sample-prompt X
"""
PRINTING = """
--help
--version
plugins
train --help
train char-bigram --input.text T --print-config
sample --ckpt R -n 9
sample --ckpt R -n 9 --json
EVAL
runs .
report R --output p.html
clean R --dry-run
convert R N
new-plugin model fresh
"""
# fmt: off
TOML: dict[str, str | bytes] = {
    "deep": f"a = {DEEP}", "deep table": f"[{'.'.join('a' * 900)}]", "long number": f"[train]\nsteps = {LONG}",
    "not UTF-8": b"a = '\xff'", "BOM": "\ufeff[train]\nsteps = 2", "NUL": "[train]\0", "nan": "[train]\nlr = nan",
    "date": "[train]\nsteps = 2026-01-01", "list": "[train]\nsteps = [2]", "text": "train = 'x'",
    "array of tables": "[[train]]\nsteps = 2", "inputs": "[[input]]\ntext = 'T'", "empty key": "[train]\n'' = 2",
    "odd key": '[train]\n"\\u001b[2J\\nFORGED" = 2', "table as value": "[train.steps]\nx = 1",
    "model is a list": "[model]\nname = ['gpt2']", "no model": "[model]\nname = ''", "odd plugins": "plugins = 'x'",
    "odd disable": "[plugins]\ndisable = 3", "two inputs": "[input]\ntext = 'T'\ntinyshakespeare = true",
    "odd versions": "versions = 3",
}
ALONE = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29597"}
NOBODY = {  # what a process waits for is said, however long it waits
    "the first": {}, "no network interface": {"MASTER_PORT": "29598", "GLOO_SOCKET_IFNAME": "none0"},
    "no host": {"RANK": "1", "MASTER_ADDR": "no.host.invalid", "MASTER_PORT": "29500"},
    "the second": {"RANK": "1", "MASTER_PORT": "29500"},
}
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "1"},
    {"PEALM_CACHE": "T"}, {"WORLD_SIZE": "2", "RANK": "5"}, {"WORLD_SIZE": "-1", "RANK": "0"},
    {"PEALM_CACHE": "/dev/null"}, {"HOME": ""},
    {**ALONE, "MASTER_PORT": "x"}, {"PEALM_CACHE": "\udcff"}, {"TORCHELASTIC_RESTART_COUNT": "x"},
    {"COLUMNS": "x"}, {"LANG": "C", "LC_ALL": "C"}, {"TERM": "dumb"}, {"TMPDIR": "/nowhere"},
    {"OMP_NUM_THREADS": "x"},
    {"_PEALM_COMPLETE": "x"}, {"PEALM_CACHE": "a\nFORGED"}, {"COLUMNS": "-5"},
    {"PEALM_DISABLE_PLUGINS": ",, ,x"}, {"PEALM_DISABLE_PLUGINS": "char-bigram"},
)
# fmt: on
BEST = ("config.toml", "model.safetensors", "state.json", "tokenizer", "tokenizer/chars.json")


def bugs() -> Iterator[Trial]:
    yield from cross(NAMED, NAMES, may="R")
    for stdout, code in {"full": 1, "closed": 1, "broken": 0}.items():
        yield from cross(PRINTING, {stdout: {"stdout": stdout, "codes": (code,)}})
    for name, text in TOML.items():
        line = "train char-bigram --input.text T --config c.toml --print-config"
        yield from cross(line, {f"TOML, {name}": partial(write, "c.toml", text)})
        best = both(partial(write, "R/best/config.toml", text), partial(sign, "R/best"))
        yield from cross("sample --ckpt R -n 2", {f"TOML, {name}": best}, may="R")
        line = "train --out R --print-config \n runs . -> 0"
        yield from cross(line, {f"TOML, {name}": partial(write, "R/config.toml", text)}, may="R")
    for name, make in GARBAGE.items():
        places = [(f"R/best/{place}", "sample --ckpt R -n 2") for place in BEST]
        again = "train --out R --steps 22 -> 0 1 2"
        places += [(f"{STEP}/{place}", again) for place in ("state.json", "optimizer.safetensors", "config.toml")]
        for place, line in places:
            sealed = (
                ""
                if place.endswith(("state.json", "tokenizer"))
                else place.rpartition("/tok")[0] or str(Path(place).parent)
            )
            for signed in {"", sealed}:
                how = f"{place} is {name}{', signed' * bool(signed)}"
                yield from cross(line, {how: instead(place, make, signed)}, may="R")
        for odd in ("odd.pt", "odd.safetensors", "odd"):
            yield from cross(f"TRAIN --init {odd} -> 2", {name: instead(odd, make)})
        for place in ("config.json", "model.safetensors"):
            yield from cross(
                "convert H N --from hf -> 2", {f"{place} is {name}": instead(f"H/{place}", make)}, may="H"
            )
        for place in ("train.npy", "meta.json"):
            line = "train char-bigram --input.npy-shards S --tokenizer gpt2 --steps 2 -> 0 1 2"
            yield from cross(line, {f"{place} is {name}": instead(f"S/{place}", make)}, may="S")
        for place in ("train.bin", "meta.json", "."):
            yield from cross("TRAIN -> 0", {f"cached {place} is {name}": partial(spoil_cache, place, make)})
    for env in ENVIRONMENTS:
        words = " ".join(f"{key}={value!a}" for key, value in env.items())
        yield from cross("TRAIN --out N -> 0 1 2 \n plugins", {words: {"env": env}})
    close_errors = both(partial(os.close, 2), partial(setattr, sys, "stderr", None))
    yield from cross(PRINTING, {"stderr is closed": {"fault": close_errors, "codes": (0,)}})
    close_input = both(partial(os.close, 0), partial(setattr, sys, "stdin", None))
    line = "TRAIN --out N -> 0 \n sample --ckpt R -n 2 --prompt-file - -> 2 \n clean R -> 0 1 2"
    yield from cross(line, {"stdin is closed": {"fault": close_input}}, may="R")
    gone = both(partial(os.mkdir, "gone"), partial(os.chdir, "gone"), lambda: Path.cwd().rmdir())
    line = "--help -> 0 \n plugins -> 0 \n runs . \n clean -> 2 \n TRAIN \n sample --ckpt R"
    yield from cross(line, {"the folder is gone": {"fault": gone}})
    for name, text in TEXTS.items():
        line = "train char-bigram --input.text odd --steps 2 --batch-size 2 --eval-tokens 64"
        line += " \n eval --ckpt R --on perplexity --input.text odd \n sample --ckpt R -n 2 --prompt-file odd"
        yield from cross(line, {f"a text: {name}": partial(write, "odd", text)}, codes=(0, 1, 2))
    for name, more in NOBODY.items():
        case = {f"{name} of two": {"env": {**ALONE, **more}, "seconds": 12, "codes": (1, 2, None)}}
        yield from cross("TRAIN --out N", case, needs="(?m)^pealm:.*(missing|waiting)")
    yield from cross("plugins -> 130", {"Ctrl-C at once": {"fault": partial(os.kill, 0, signal.SIGINT)}}, own=True)


TEXTS: dict[str, str | bytes] = {
    "one character": "a",
    "one repeated": "a" * 5000,
    "UTF-16": ("the fox" * 99).encode("utf-16"),
    "latin-1": b"caf\xe9 " * 999,
    "CR": "abc\r" * 500,
    "BOM": "\ufeffabc " * 500,
    "20,000 characters": "".join(map(chr, range(0x4E00, 0x9C20))),
    "surrogates": b"abc\xed\xa0\x80" * 99,
    "cut short": ("abc " * 500 + "é").encode()[:-1],
    "line separators": "a\x0c\x1c\x85\u2028b" * 300,
}


def spoil_cache(place: str, make: Callable[[str], object]) -> None:
    for folder in list(Path("cache/tokens").glob("?" * 32)):
        instead(str(folder / place), make)()


# ---------------------------------------------------------------- 6. the right one is blamed

HOOK = "from pealm_core import DatasetSpec, hookimpl\n@hookimpl\ndef pealm_datasets():\n    "
SPEC = HOOK + "yield DatasetSpec(**{'name': 'odd', 'summary': 'odd', 'factory': 'odd_plugin:make', **%s})\n"
# fmt: off
IMPORTS: dict[str, str | bytes] = {
    "prints": "print('hello')", "exits": "raise SystemExit(0)",
    "panics": "raise BaseException('panic')", "raises": "raise ValueError('\\x1b[2J\\nFORGED')",
    "is not Python": "def",
    "warns": "import warnings; warnings.warn('x')", "ends": "raise GeneratorExit", "recurses": "def f(): f()\nf()",
    "is not UTF-8": b"x = '\xff'", "has a NUL": b"x = 1\0", "imports torch": "import torch",
    "lacks a module": "import no_such_module", "is out of memory": "raise MemoryError",
    "returns None": HOOK + "return None", "returns 5": HOOK + "return 5", "returns text": HOOK + "return 'x'",
    "raises in a hook": HOOK + "raise BaseException('x')", "yields 5": HOOK + "yield 5",
    "has an odd name": SPEC % "{'name': '\\x1b'}", "has an odd summary": SPEC % "{'summary': '\\x1b[2J'}",
    "has no factory": SPEC % "{}", "has numbers": SPEC % "{'name': 1, 'summary': 2, 'factory': 3}",
    "takes a name": SPEC % "{'name': 'text'}", "exits at once": "import os; os._exit(0)",
    "writes to fd 1": "import os; os.write(1, b'hello')", "runs echo": "import os; os.system('echo hello')",
    "closes stdout": "import os; os.close(1)", "forks": "import os\nif os.fork() == 0: os._exit(0)",
    "has no text": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "has another str": "class S(str):\n    def __str__(self): raise ValueError\n    __repr__ = __format__ = __str__\n"
    + SPEC % "{'name': S('odd')}",
    "replaces itself": "import sys; sys.modules[__name__] = object()",
    "raises late": SPEC % "{}" + "    raise OSError(5)", "changes the folder": "import os; os.chdir('/')",
    "dies in a thread": "import threading; threading.Thread(target=int, args=('x',)).start()",
}
ENTRIES: dict[str, str | bytes] = {
    "not UTF-8": b"[pealm]\n\xff = x", "no =": "[pealm]\nodd", "empty module": "[pealm]\nodd =",
    "empty name": "[pealm]\n= odd_plugin", "odd module": "[pealm]\nodd = a b c", "twice": "[pealm]\nodd = x\nodd = x",
    "escapes": "[pealm]\n\x1b[2J = odd_plugin", "two sections": "[pealm]\n[pealm]\nodd = x",
    "attribute": "[pealm]\nodd = odd_plugin:x", "relative": "[pealm]\nodd = .odd_plugin", "zeros": b"[pealm]\n\0\0",
    "the core": "[pealm]\nodd = pealm_core", "long": f"[pealm]\n{'n' * 9999} = x",
}
REQUIRES = ("pealm-core (banana)", "pealm-core >=99", "pealm-core ==", "pealm-core @ x", "pealm-core \udcff\x1b")
ENDS = {
    "os._exit(0)": "import os; os._exit(0)", "SystemExit(0)": "raise SystemExit(0)",
    "Exit(0)": "import click; raise click.exceptions.Exit(0)",
}
# fmt: on
PARTS = """
from dataclasses import dataclass
import math
import torch
from pealm_core import DatasetSpec, EvalResult, EvaluatorSpec, ObjectiveSpec, ScheduleSpec, Segment, hookimpl, setting
"""
OBJECTIVE = """
@hookimpl
def pealm_objectives():
    return ObjectiveSpec(name="odd", summary="odd", factory=Odd)
class Odd:
    def __init__(self, model, tokenizer): pass
    def loss(self, model, batch): return model(batch["idx"], batch["targets"])[1], {}
    %s
"""
SCHEDULE = """
@hookimpl
def pealm_schedules():
    return ScheduleSpec(name="odd", summary="odd", factory=odd)
def odd():
    %s
"""
EVALUATOR = """
@hookimpl
def pealm_evaluators():
    return EvaluatorSpec(name="odd", summary="odd", factory=Odd)
class Odd:
    def evaluate(self, model, tokenizer, *, config, progress): return EvalResult(metrics={"x": (0.5, 0.1)}, n=1)
    %s
"""
DATASET = """
@hookimpl
def pealm_datasets():
    return DatasetSpec(name="odd", summary="odd", factory=Odd)
class Odd:
    def documents(self, split): return ["the quick brown fox " * 50] * 2
    %s
"""
# What each must say; for those that are switched off, exit code 0.
OBJECTIVES = {  # name: (the class's body, what is shown)
    "a bare loss": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1]", "Odd.loss must return"),
    "no metrics": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1], None", "Odd.loss must return"),
    "a list of metrics": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1], []", "Odd.loss must return"),
    "metrics of text": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1], {'x': 'y'}", "Odd.loss must"),
    "a metric of two": (
        "def loss(self, m, b): return m(b['idx'], b['targets'])[1], {'x': torch.ones(2)}",
        "Odd.loss",
    ),
    "a metric named 3": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1], {3: 1.0}", "Odd.loss must"),
    "a metric named lr": (
        "def loss(self, m, b): return m(b['idx'], b['targets'])[1], {'lr': 1.0}",
        "Odd.loss: a metric",
    ),
    "a loss of two": ("def loss(self, m, b): return m(b['idx'], b['targets'])[1].expand(2), {}", "Odd.loss must"),
    "a loss of None": ("def loss(self, m, b): return None, {}", "Odd.loss must return"),
    "a real loss": ("def loss(self, m, b): return 1.5, {}", "Odd.loss must return"),
    "a detached loss": (
        "def loss(self, m, b): return m(b['idx'], b['targets'])[1].detach(), {}",
        "Odd.loss: the loss",
    ),
    "one argument": ("def loss(self, m): return 1", "Odd.loss must|Odd.loss: TypeError"),
    "no loss": ("loss = None", "loss"),
    "other metrics each step": (
        "n = 0\n    def loss(self, m, b): self.n += 1; return m(b['idx'], b['targets'])[1], {str(self.n): 1.0}",
        "Odd.loss: each step must have the same metrics",
    ),
    "prepares nothing": ("def prepare(self, batch, seed): pass", "Odd.prepare must return"),
    "prepares a list": ("def prepare(self, batch, seed): return [batch]", "Odd.prepare must return"),
    "prepares no targets": (
        "def prepare(self, batch, seed): return {'idx': batch['idx']}",
        "Odd.prepare must return",
    ),
    "prepares numbers": ("def prepare(self, batch, seed): return {**batch, 'x': 3}", "Odd.prepare must return"),
    "prepares fewer rows": (
        "def prepare(self, batch, seed): return {**batch, 'x': torch.ones(1)}",
        "Odd.prepare must",
    ),
    "prepares with one argument": ("def prepare(self, batch): return batch", "Odd.prepare: TypeError"),
    "weighs -1": ("def weight(self, batch): return -1", "Odd.weight must return"),
    "weighs None": ("def weight(self, batch): pass", "Odd.weight must return"),
    "weighs text": ("def weight(self, batch): return '3'", "Odd.weight must return"),
    "weighs half": ("def weight(self, batch): return 0.5", "Odd.weight must return"),
    "validates to 3": ("def validate(self, m, b): return 3", "Odd.validate must return"),
    "validates to a pair": ("def validate(self, m, b): return m(b['idx'], b['targets'])", "Odd.validate must return"),
    "raises": ("def loss(self, m, b): return {}['x']", "line \\d+, loss.*KeyError"),
}
SCHEDULES = {
    "None": "return lambda progress, step: None",
    "text": "return lambda progress, step: '1'",
    "a tensor": "return lambda progress, step: torch.tensor(1.0)",
    "NaN": "return lambda progress, step: math.nan",
    "infinity": "return lambda progress, step: math.inf",
    "complex": "return lambda progress, step: 1j",
    "one argument": "return lambda progress: 1.0",
    "no argument": "return lambda: 1.0",
    "a number": "return 1.0",
    "nothing": "pass",
    "divides by 0": "return lambda progress, step: 1 / step",
    "huge": "return lambda progress, step: 10**400",
}
OBSERVERS = {  # what is done in pealm_metrics, and what is shown
    "a tensor": ("metrics['x'] = torch.tensor(3.0)", ""),
    "a tensor of two": ("metrics['x'] = torch.ones(2)", "finite"),
    "a numpy number": ("import numpy; metrics['x'] = numpy.float32(3)", ""),
    "None": ("metrics['x'] = None", ""),
    "NaN": ("metrics['x'] = math.nan", "finite"),
    "infinity": ("metrics['x'] = torch.tensor(math.inf)", "finite"),
    "10**400": ("metrics['x'] = 10**400", "finite"),
    "text": ("metrics['x'] = '3'", "finite"),
    "a list": ("metrics['x'] = [3]", "finite"),
    "a table": ("metrics['x'] = {}", "finite"),
    "a number's name": ("metrics[3] = 1.0", "finite"),
    "a changed loss": ("metrics['loss'] = 0.0", "core's"),
    "a changed step": ("metrics['step'] = 7", "core's"),
    "val_loss": ("metrics['val_loss'] = 5.0", "core's"),
    "updates the loss": ("metrics.update(loss=0.0)", "core's"),
    "removes lr": ("del metrics['lr']", "removed"),
    "pops lr": ("metrics.pop('lr')", "removed"),
    "clears": ("metrics.clear()", "removed"),
    "replaces": ("metrics |= {'loss': 1.0}", "core's"),
    "sets a default": ("metrics.setdefault('x', '3')", "finite"),
    "odd steps": ("metrics.update({'x': 1.0} if step % 2 else {})", ""),
}
HOOKS = {  # a hook, and what is done in it, the exit code, what is shown and the run's status
    "refuses the run": (
        "pealm_run_start(trainer)",
        "raise UserError('no such file')",
        2,
        "odd.py/odd: no such file",
        "",
    ),
    "Ctrl-C at the start": (
        "pealm_run_start(trainer)",
        "raise KeyboardInterrupt",
        130,
        "resume with: pealm --plugin",
        "",
    ),
    "Ctrl-C in a step": (
        "pealm_step_end(trainer)",
        "raise KeyboardInterrupt",
        130,
        "resume with: .*odd.py train",
        "interrupted",
    ),
    "Ctrl-C with metrics": (
        "pealm_metrics(trainer, step, metrics)",
        "raise KeyboardInterrupt",
        130,
        "resume with",
        "interrupted",
    ),
    "UserError later": ("pealm_step_end(trainer)", "raise UserError('late')", 0, "continues without it", "done"),
    "stops at the start": ("pealm_run_start(trainer)", "trainer.stop('enough')", 0, "after step \\d: enough", ""),
    "stops in step 2": (
        "pealm_step_end(trainer)",
        "trainer.step < 2 or trainer.stop('enough')",
        0,
        "after step 2: enough",
        "done",
    ),
    "stops with metrics": (
        "pealm_metrics(trainer, step, metrics)",
        "trainer.stop('enough')",
        0,
        "after step 2: enough",
        "done",
    ),
    "stops at a validation": (
        "pealm_validation_end(trainer, loss)",
        "trainer.step and trainer.stop('a\\nFORGED')",
        0,
        "",
        "done",
    ),
    "stops without a reason": ("pealm_step_end(trainer)", "trainer.stop(None)", 0, "after step 1", "done"),
    "another model of 3": (
        "pealm_eval_model(trainer)",
        "return 3",
        3,
        "odd.py/odd: pealm_eval_model must return",
        "",
    ),
    "a class as a model": (
        "pealm_eval_model(trainer)",
        "return torch.nn.Linear",
        3,
        "pealm_eval_model must return",
        "",
    ),
    "state of None": (
        "pealm_run_start(trainer)",
        "trainer.register_state('x', None)",
        0,
        "state_dict and load_state_dict",
        "done",
    ),
    "state that is a set": (
        "pealm_run_start(trainer)",
        "trainer.register_state('x', State({1}))",
        3,
        "odd.py/odd: .*set",
        "",
    ),
    "state that raises": (
        "pealm_run_start(trainer)",
        "trainer.register_state('x', State(0))",
        3,
        "odd.py/odd: .*line",
        "",
    ),
    "a local function": (
        "pealm_run_start(trainer)",
        "trainer.register_state('x', State({'a': print}))",
        3,
        "x.a can't be",
        "",
    ),
    "a fault": ("pealm_step_end(trainer)", "1 / 0", 0, "ZeroDivisionError.*line \\d+, pealm_step_end", "done"),
}
STATE = """
from pealm_core import UserError
class State:
    def __init__(self, value): self.value = value
    def state_dict(self): return self.value or {}['x']
    def load_state_dict(self, state): pass
"""
FITTED = """
from pealm_core import TokenizerSpec
@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="odd", summary="odd", factory=Odd)
class Odd:
    names = ""
    def fit(self, texts): self.names = "".join(sorted({*"".join(texts)}))
    def save(self, folder): (folder / "names").write_text(self.names)
    def load(self, folder): self.names = (folder / "names").read_text()
    def encode(self, text): return [self.names.index(c) for c in text]
    def decode(self, ids): return "".join(self.names[i] for i in ids)
    @property
    def vocab_size(self): return len(self.names)
    %s
"""
FITS = {
    "no texts": ("def fit(self): pass", "Odd.fit: TypeError"),
    "saves nothing": ("def save(self, folder): pass", "Odd.load: can't load what `save` wrote"),
    "loads nothing": ("def load(self, folder): pass", "Odd.load: can't load what `save` wrote"),
    "loads without a folder": ("def load(self): pass", "Odd.load: can't load"),
    "lacks save": ("save = None", "can fit but not save and load"),
    "lacks encode": ("encode = None", "must return an object with encode and decode"),
    "specials are a text": ("specials = '<|x|>'", "specials"),
    "specials are a list": ("specials = ['<|x|>']", "specials"),
    "counts by a fault": ("def fit(self, texts): {}['x']", "line \\d+, fit.*KeyError"),
}
SETTINGS = {  # a field of an observer's config, and what is shown; "" is a correct one
    "ellipsis": ("path: str = setting(..., 'the file')", "needs a value"),
    "no default": ("path: str", "needs a value"),
    "a wrong type": ("n: int = setting(0.5)", "has a default of 'n' that is wrong"),
    "below its bound": ("n: int = setting(0, at_least=1)", "has a default of 'n' that is wrong"),
    "text for a number": ("n: float = setting('x')", "has a default of 'n' that is wrong"),
    "None": ("n: int = setting(None)", "has a default of 'n' that is wrong"),
    "NaN": ("n: float = math.nan", "has a default of 'n' that is wrong"),
    "no such choice": ("n: Literal['a', 'b'] = setting('c')", "has a default of 'n' that is wrong"),
    "a list of one wrong": ("n: tuple[int, ...] = (1, 'x')", "has a default of 'n' that is wrong"),
}
EVALUATORS = {
    "None": "def evaluate(self, model, tokenizer, *, config, progress): pass",
    "no progress": "def evaluate(self, model, tokenizer, *, config): pass",
    "a number": "def evaluate(self, *_, **__): return 0.5",
    "a bare metric": "def evaluate(self, *_, **__): return EvalResult({'x': 0.5}, 1)",
    "a metric of three": "def evaluate(self, *_, **__): return EvalResult({'x': (1, 2, 3)}, 1)",
    "a metric of text": "def evaluate(self, *_, **__): return EvalResult({'x': ('a', 'b')}, 1)",
    "a metric of None": "def evaluate(self, *_, **__): return EvalResult({'x': (0.5, None)}, 1)",
    "a list of metrics": "def evaluate(self, *_, **__): return EvalResult([(0.5, 0.1)], 1)",
    "n of text": "def evaluate(self, *_, **__): return EvalResult({'x': (0.5, 0.1)}, 'x')",
    "n of None": "def evaluate(self, *_, **__): return EvalResult({'x': (0.5, 0.1)}, None)",
    "n below 0": "def evaluate(self, *_, **__): return EvalResult({'x': (0.5, 0.1)}, -1)",
    "notes of numbers": "def evaluate(self, *_, **__): return EvalResult({'x': (0.5, 0.1)}, 1, [3])",
    "a tensor in details": "def evaluate(self, *_, **__): return EvalResult({}, 1, (), [{'x': torch.ones(2)}])",
    "a set in details": "def evaluate(self, *_, **__): return EvalResult({}, 1, (), [{1, 2}])",
    "a tensor as a metric": "def evaluate(self, *_, **__): return EvalResult({'x': (torch.ones(()), 0.1)}, 1)",
}
DATASETS = {  # the class's body, and what is shown
    "no split": ("def documents(self): return []", "Odd.documents: TypeError"),
    "None": ("def documents(self, split): pass", "Odd.documents must return"),
    "one text": ("def documents(self, split): return 'text'", "Odd.documents must return"),
    "a number": ("def documents(self, split): return 5", "Odd.documents must return"),
    "numbers": ("def documents(self, split): return [1, 2]", "Odd.documents: a document must be"),
    "bytes": ("def documents(self, split): return [b'x']", "document"),
    "pairs": ("def documents(self, split): return [('a', 'b')]", "Odd.documents: a document must be"),
    "a missing file": (
        "def documents(self, split): yield from open('/nowhere/x')",
        "line \\d+, documents.*FileNotFound",
    ),
    "no such column": ("def documents(self, split): yield {}['x']", "line \\d+, documents.*KeyError"),
    "a wrong value": ("def documents(self, split): yield str(int('x'))", "line \\d+, documents.*ValueError"),
    "no more": ("def documents(self, split): yield 'abc' * 99; raise StopIteration", "documents"),
    "specials are a text": ("specials = ('<|end|>')", "specials must return|specials"),
    "specials are numbers": ("specials = (1, 2)", "specials"),
    "specials have an empty name": ("specials = ('',)", "specials"),
    "a segment of both": ("def documents(self, split): return [[Segment('a', special='<|e|>')]]", "Segment"),
    "a segment of 3": ("def documents(self, split): return [[Segment(3)]]", "Segment"),
    "an unknown special": ("def documents(self, split): return [[Segment(special='<|e|>')]] * 9", "specials"),
}
TOKENIZER = """
from pealm_core import TokenizerSpec, hookimpl
@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="odd", summary="odd", factory="odd_plugin:make")
class make:
    vocab_size = 300
    def encode(self, text): return list(text.encode())
    def decode(self, ids): return bytes(ids).decode(errors="replace")
    """
TOKENIZERS = {
    "negative ids": "def encode(self, text): return [-1] * len(text)",
    "huge ids": "def encode(self, text): return [10**20] * len(text)",
    "real ids": "def encode(self, text): return [1.5] * len(text)",
    "no ids": "def encode(self, text): return None",
    "bytes": "def decode(self, ids): return bytes(ids)",
    "None": "def decode(self, ids): return None",
    "escapes": "def decode(self, ids): return chr(27) + '[2J'",
    "no tokens": "vocab_size = 0",
    "text for a size": "vocab_size = '300'",
    "many tokens": "vocab_size = 10**12",
    "eot beyond": "eot_id = 5000",
    "eot is text": "eot_id = 'x'",
    "exits": "def encode(self, text): raise SystemExit(0)",
}
MODEL = """
from dataclasses import dataclass
from pealm_core import ModelSpec, hookimpl
@dataclass(frozen=True)
class Config:
    vocab_size: int = 0
    block_size: int = 16
@hookimpl
def pealm_models():
    return ModelSpec(name="odd", summary="odd", config="odd_plugin:Config", factory="odd_model:Odd")
"""
NETWORK = """
import torch
from torch import nn
class Odd(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        %s
    def forward(self, idx, targets=None, *, cache=None, at=None):
        logits = self.table(idx) if at is None else self.table(idx)[:, at]
        loss = None
        if targets is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            %s
        return logits, loss
"""
MODELS = {
    "frozen": ("self.requires_grad_(False)", "pass"),
    "no gradients": ("torch.set_grad_enabled(False)", "pass"),
    "sparse": ("self.table.sparse = True", "pass"),
    "NaN": ("self.table.weight.data.fill_(torch.nan)", "pass"),
    "meta": ("self.table.to('meta')", "pass"),
    "detached": ("pass", "loss = loss.detach()"),
    "a vector": ("pass", "loss = loss.expand(3)"),
    "a float": ("pass", "loss = float(loss)"),
    "narrow": ("pass", "logits = logits[..., :-1]"),
    "raises": ("pass", "assert not self.training"),
    "exits": ("pass", "import os; self.training and os._exit(0)"),
    "no state_dict": ("self.state_dict = None", "pass"),
    "no parameters": ("self.named_parameters = None", "pass"),
    "no train": ("self.train = 5", "pass"),
    "an empty state_dict": ("self.state_dict = lambda *a, **k: {}", "pass"),
    "a state_dict of None": ("self.state_dict = lambda *a, **k: None", "pass"),
    "a state_dict of text": ("self.state_dict = lambda *a, **k: {'x': 'y'}", "pass"),
    "a list of parameters": ("self.parameters = lambda *a, **k: [1, 2]", "pass"),
    "closes all files": ("pass", "import os; self.training and os.closerange(3, 99)"),
    "a thread dies": ("pass", "import threading; threading.Thread(target=int, args=('x',)).start()"),
    "changes the folder": ("import os; os.chdir('/')", "pass"),
    "metrics of None": ("pass", "return logits, loss, None"),
    "metrics of text": ("pass", "return logits, loss, {'x': 'y'}"),
    "a metric of two": ("pass", "return logits, loss, {'x': torch.ones(2)}"),
    "a metric of two in training": ("pass", "return logits, loss, {'x': torch.ones(2 if self.training else ())}"),
    "only the loss in training": ("pass", "return loss if self.training else (logits, loss)"),
    "bare logits": ("self.register_forward_hook(lambda m, a, r: r if r[1] is not None else r[0])", "pass"),
    "an unknown name": ("pass", "nowhere"),
}
READING = """
runs . -> 0
runs . --json -> 0
report R --output p.html -> 0
clean . --dry-run -> 0
"""


def plugin(source: str | bytes, entries: str | bytes = "[pealm]\nodd = odd_plugin\n", requires: str = "") -> Do:
    """Return a setup that installs a plugin: the source of its module, its entry points and what it needs."""
    info, head = (
        "site/pealm_odd-1.0.dist-info",
        "Metadata-Version: 2.1\nName: pealm-odd\nVersion: 1.0\nRequires-Dist: ",
    )
    parts = {"site/odd_plugin.py": source, f"{info}/entry_points.txt": entries, f"{info}/METADATA": head + requires}
    return both(*(partial(write, name, data) for name, data in parts.items()))


def blame() -> Iterator[Trial]:
    cases = {name: plugin(source) for name, source in IMPORTS.items()}
    cases |= {f"has entry points with {name}": plugin("", text) for name, text in ENTRIES.items()}
    cases |= {f"needs {text!a}": plugin("", requires=text) for text in REQUIRES}
    for file in ("entry_points.txt", "METADATA"):
        place = f"site/pealm_odd-1.0.dist-info/{file}"
        cases |= {
            f"has a {file} that is {name}": both(plugin(""), instead(place, make)) for name, make in ENDLESS.items()
        }
    cases = {f"a plugin that {name}": setup for name, setup in cases.items()}
    yield from cross("plugins -> 0", cases)
    yield from cross("sample --ckpt R -n 2 --json -> 0", cases, after=lambda out, err: json.loads(out))
    closes = {"a plugin that closes all files": plugin("import os; os.closerange(3, 99)")}
    yield from cross("plugins -> 3 \n sample --ckpt R -n 2 --json -> 3", closes, needs="PEALM_DISABLE_PLUGINS=odd")
    for name, code in ENDS.items():
        case = {f"{name} in a factory": plugin(SPEC % "{}" + f"def make():\n    {code}\n")}
        yield from cross(
            "train char-bigram --input.odd --steps 2 -> 1 3 \n eval --ckpt R --on perplexity --input.odd -> 1 3", case
        )
    line = "train char-bigram --tokenizer odd --input.text T --steps 2 --batch-size 2 --eval-tokens 64 --out N"
    line += " && sample --ckpt N -n 3 && EVAL -> 0 2 3"
    for name, code in TOKENIZERS.items():
        yield from cross(line, {f"a tokenizer: {name}": plugin(TOKENIZER + code)}, may="R")
    for name, (init, forward) in MODELS.items():
        parts = both(plugin(MODEL), partial(write, "site/odd_model.py", NETWORK % (init, forward)))
        line = "train odd --input.text T --steps 2 --batch-size 2 --eval-tokens 64 -> 0 1 2 3"
        yield from cross(line, {f"a model: {name}": parts})
    yield from wrong_parts()
    for signature in ("pealm_run_start(trainer)", "pealm_step_end(trainer)", "pealm_run_end(trainer, status)"):
        for code in ("import os; os._exit(0)", "raise ValueError('\\x1b[2J\\nFORGED')", "raise SystemExit(0)"):
            observer = f"from pealm_core import hookimpl\n@hookimpl\ndef {signature}: {code}\n"
            observing: dict[str, Any] = {
                f"{signature} {code}": {"setup": plugin(observer), "after": partial(saved, "N", "done")}
            }
            yield from cross("TRAIN --out N -> 0", observing, needs="continues without it")
    for place in ("run.json", "metrics.jsonl", "samples.jsonl", "eval.json"):
        for name, make in GARBAGE.items():
            yield from cross(READING, {f"{place} is {name}": instead(f"R/{place}", make)}, may="R")
    for name, make in {**GARBAGE, **ENDLESS}.items():
        yield from cross(
            "runs . -> 0", {f"a config.toml is {name}": instead("R/config.toml", make)}, may="R", needs="G +gpt2"
        )
    memory = at("Trainer.gradients", 2, partial(throw, MemoryError("can't allocate memory")))
    yield from cross("TRAIN -> 1", {"": {"fault": memory}}, needs="out of memory", never="failed to load")
    yield from cross("nothing -> 2 \n train nothing -> 2 \n TRAIN --tokenizer nothing -> 2", after=no_duplicates)


def wrong_parts() -> Iterator[Trial]:
    """Yield trials of plugin files whose parts return what they must not."""
    train = "--plugin odd.py train char-bigram --input.text T --steps 3 --batch-size 2 --eval-tokens 64 "

    def trial(name: str, source: str, line: str, code: int, **rest: Any) -> Iterator[Trial]:
        never = "Traceback|bug in pealm|pealm-char" if code == 3 else ""
        rest = {"setup": partial(write, "odd.py", PARTS + source), "never": never, **rest}
        yield from cross(f"{line} -> {code}", {name: rest}, may="R")

    for name, (code, needs) in OBJECTIVES.items():
        yield from trial(f"an objective: {name}", OBJECTIVE % code, train + "--objective odd", 3, needs=needs)
    for name, code in SCHEDULES.items():
        yield from trial(f"a schedule: {name}", SCHEDULE % code, train + "--schedule odd", 3, needs="odd.py.*odd")
    for name, (code, needs) in OBSERVERS.items():
        hook = f"@hookimpl\ndef pealm_metrics(trainer, step, metrics):\n    {code}\n"
        needs = f"pealm_metrics failed at step 1.*{needs}.*line" if needs else ""
        ends, never = partial(saved, "N", "done"), "" if needs else "continues without"
        yield from trial(f"metrics: {name}", hook, train + "--out N", 0, needs=needs, after=ends, never=never)
    for name, (hook, code, end, needs, status) in HOOKS.items():
        source = f"{STATE}@hookimpl\ndef {hook}:\n    {code}\n"
        after: Callable[[str, str], object] = partial(saved, "N", status) if status else anything
        yield from trial(f"a hook: {name}", source, train + "--out N", end, needs=needs, after=after)
    for name, (code, needs) in FITS.items():
        yield from trial(f"a tokenizer: {name}", FITTED % code, train + "--tokenizer odd", 3, needs=needs)
    for name, (code, needs) in SETTINGS.items():
        source = (
            f"from typing import Literal\n@dataclass(frozen=True)\nclass Config:\n    {code}\n" + SCHEDULE % "pass"
        )
        source = source.replace("factory=odd", "config=Config, factory=odd")
        end = 2 if "needs" in needs else 3
        yield from trial(f"a setting: {name}", source, train + "--schedule odd", end, needs=needs)
    for name, code in EVALUATORS.items():
        line = "--plugin odd.py eval --ckpt R --on odd --output N.json"
        yield from trial(f"an evaluator: {name}", EVALUATOR % code, line, 3, needs="Odd.evaluate")
    for name, (code, needs) in DATASETS.items():
        for more in ("", " --tokenizer bpe --tokenizer.vocab-size 300")[: 2 if name[:2] in ("a ", "no") else 1]:
            line = train.replace("--input.text T", "--input.odd") + more
            yield from trial(f"a dataset: {name}", DATASET % code, line, 3, needs=needs)


def no_duplicates(out: str, err: str) -> None:
    """Check that a list of known names, each with a hyphen, has none twice."""
    twice = [name for name, count in Counter(re.findall(r"[a-z]+-[a-z-]+", err)).items() if count > 1]
    assert not twice, f"twice in the list: {twice}"


# ---------------------------------------------------------------- 7. exit 0 means that it is true

WEIGHTS = {
    "R": "sample --ckpt R -n 3 -> 1 2 \n EVAL -> 1 2 \n convert R N -> 1 2 \n TRAIN --init R -> 1 2",
    "G": "sample --ckpt G -n 3 -> 1 2 \n convert G N --dtype fp16 -> 1 2 \n convert G N --to hf -> 1 2",
}

LIKE = {"R": "TRAIN", "G": "GPT2"}


def reweigh(folder: str, change: Callable[[Any], Any], file: str = "model.safetensors") -> None:
    """Change the first matrix of a file of weights, or leave it out."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(Path(folder, file))
    name = min(name for name in tensors if tensors[name].ndim == 2)
    changed = change(tensors.pop(name))
    save_file(tensors if changed is None else {**tensors, name: changed.contiguous()}, Path(folder, file))
    if Path(folder, "state.json").exists():
        sign(folder)


def filled(value: float, tensor: Any) -> Any:
    tensor[0, 0] = value
    return tensor


def ones(kind: Any, tensor: Any) -> Any:
    return tensor.new_ones(tensor.shape).to(kind)


def truth() -> Iterator[Trial]:
    import torch

    changes: dict[str, Callable[[Any], Any]] = {n: partial(filled, float(n)) for n in ("NaN", "inf", "-inf")}
    for kind in (torch.int64, torch.bool, torch.uint8, torch.complex64):
        changes[f"is {kind}"] = partial(ones, kind)
    changes |= {
        "is cut": lambda t: t[:, :-1],
        "is a scalar": lambda t: t[0, 0].clone(),
        "is left out": lambda t: None,
    }
    named = "(?i)table|wte|wpe|c_attn|c_proj|c_fc|lm_head"
    for name, change in changes.items():
        for folder, lines in WEIGHTS.items():
            case: dict[str, Any] = {f"{folder}'s tensor {name}": partial(reweigh, f"{folder}/best", change)}
            yield from cross(lines, case, may=folder, needs=named)
            copy = partial(shutil.copy, f"{folder}/best/model.safetensors", "odd.safetensors")
            case = {f"a file's tensor {name}": both(copy, partial(reweigh, ".", change, "odd.safetensors"))}
            yield from cross(f"{LIKE[folder]} --init odd.safetensors -> 2", case, needs=named)
    large = partial(reweigh, "G/best", partial(filled, 70000.0))
    yield from cross("convert G N --dtype fp16 -> 2 \n convert G N --dtype bf16 -> 0", {"70,000": large}, may="G")
    zero = partial(spoil_cache, "train.bin", content(b"\0" * 9000))
    yield from cross("TRAIN -> 0", {"cached tokens changed": zero}, needs="damaged|again")
    yield from cross(
        "train --out R --steps 40 -> 0", {"the schedule changes": {}}, may="R", needs="learning rate|schedule"
    )
    equal = partial(reweigh, "R/best", torch.zeros_like)
    chance = r"4\.8\d+ bits|28\.0|3\.33\d\d"
    yield from cross("EVAL -> 0", {"equal logits score chance": equal}, may="R", needs=chance)
    yield from cross("convert R N --to hf -> 1 2", {"nothing was written": {}})
    twice = partial(write, "c.toml", "[train]\nbatch-size = 2\nbatch_size = 3\n")
    yield from cross(
        "TRAIN --config c.toml -> 2", {"two spellings of one key": twice}, needs="same|both|twice|one of them"
    )
    foreign, never = partial(write, "T2", "the quick 日本\n" * 9), "tokenizer.unknown replace"
    lines = "sample --ckpt R --prompt 日本 -> 2 \n eval --ckpt R --on perplexity --input.text T2 -> 2"
    yield from cross(lines, {"unknown characters": foreign}, never=never)


# ---------------------------------------------------------------- 8. pea

PEA = {
    "0 ** 0": "assert (0 ** Value(0.0)).data == 1.0",
    "0 ** 0, backward": "x = Value(0.0); (0 ** x).backward(); assert x.grad <= 0 or x.grad != x.grad",
    "0 ** 0.5": "x = Value(0.5); y = 0 ** x; y.backward(); assert y.data == 0 and x.grad == 0",
    "0 ** 2": "x = Value(2.0); y = 0 ** x; y.backward(); assert y.data == 0 and x.grad == 0",
    "numpy * Value": "y = np.float64(2) * Value(3.0); assert isinstance(y, Value) and y.data == 6",
    "Value * numpy": "y = Value(3.0) * np.float64(2); assert isinstance(y, Value) and y.data == 6",
    "numpy ** Value": "y = np.float64(2) ** Value(3.0); assert isinstance(y, Value) and y.data == 8",
    "numpy int - Value": "y = np.int64(2) - Value(3.0); assert isinstance(y, Value) and y.data == -1",
    "numpy float32 / Value": "y = np.float32(2) / Value(4.0); assert isinstance(y, Value) and y.data == 0.5",
    "one output": "assert isinstance(MLP(3, [4, 4, 1])([1.0, 2.0, 3.0]), Value)",
    "two outputs": "assert len(MLP(3, [4, 2])([1.0, 2.0, 3.0])) == 2",
    "sums": "assert pea.sum([Value(0.1)] * 10).data == 0.9999999999999999  # from left to right, on every Python",
    "deep": "x = y = Value(1.0)\nfor _ in range(20000): y = y + x\ny.backward(); assert x.grad == 20001",
    "too few inputs": "try: MLP(3, [1])([1.0])\nexcept ValueError: pass\nelse: raise AssertionError",
    "no gradient is left": "x = Value(2.0); pea.check(lambda x: x * x, x); assert x.grad == 0",
    "text": "try: Value('3')\nexcept (TypeError, ValueError): pass\nelse: raise AssertionError",
    "overflow": "x = Value(800.0); y = x.tanh(); y.backward(); assert y.data == 1 and x.grad == 0",
    "neg ** frac": "try: Value(-2.0) ** Value(0.5)\nexcept ValueError: pass\nelse: raise AssertionError",
    "negative base rpow": "try: (-2) ** Value(0.5)\nexcept ValueError: pass\nelse: raise AssertionError",
    "relu nan": "x = Value(float('nan')); y = x.relu(); assert y.data != y.data, y.data",
    "abs nan": "x = Value(float('nan')); y = abs(x); y.backward(); assert y.data != y.data",
    "sigmoid 40": "x = Value(40.0); y = x.sigmoid(); y.backward(); assert 4e-18 < x.grad < 5e-18, x.grad",
    "sigmoid nan": "y = Value(float('nan')).sigmoid(); assert y.data != y.data",
    "exp inf": "x = Value(float('inf')); y = x.exp(); assert y.data == float('inf')",
    "log tiny": "x = Value(5e-324); y = x.log(); y.backward(); assert x.grad == float('inf'), x.grad",
    "1/tiny": "x = Value(5e-324); y = 1 / x; assert y.data == float('inf')",
    "inf - inf": "y = Value(float('inf')) - Value(float('inf')); assert y.data != y.data",
    "diamond": "x = Value(3.0); a = x * 2; y = a * a + a; y.backward(); assert (y.data, x.grad) == (42, 26)",
    "x - x": "x = Value(3.0); y = x - x; y.backward(); assert (y.data, x.grad) == (0, 0)",
    "backward twice": "x = Value(3.0); y = x * x; y.backward(); y.backward(); assert x.grad == 12, x.grad",
    "backward of a leaf": "x = Value(3.0); x.backward(); assert x.grad == 1",
    "bool": "assert (Value(2.0) * True).data == 2",
    "int huge": "try: Value(10 ** 400)\nexcept OverflowError: pass\nelse: raise AssertionError",
    "complex": "try: Value(2.0) * 2j\nexcept TypeError: pass\nelse: raise AssertionError",
    "complex left": "try: 2j * Value(2.0)\nexcept TypeError: pass\nelse: raise AssertionError",
    "array": "try: np.ones(3) * Value(2.0)\nexcept TypeError: pass\nelse: raise AssertionError",
    "array right": "try: Value(2.0) * np.ones(3)\nexcept TypeError: pass\nelse: raise AssertionError",
    "list": "try: [1] * Value(2.0)\nexcept TypeError: pass\nelse: raise AssertionError",
    "None": "try: Value(None)\nexcept TypeError: pass\nelse: raise AssertionError",
    "0-d array": "assert (Value(2.0) + np.array(3.0)[()]).data == 5",
    "float16": "assert (np.float16(3) * Value(2.0)).data == 6 and (Value(2.0) ** np.float16(2)).data == 4",
    "uint8": "assert (np.uint8(3) - Value(5.0)).data == -2 and (Value(1.0) - np.uint8(3)).data == -2",
    "np.nan": "assert (np.nan * Value(2.0)).data != 0",
    "tensor": "try: r = torch.tensor(2.0) * Value(3.0)\nexcept TypeError: pass\nelse: assert isinstance(r, Value)",
    "comparison": "hash(Value(1.0)); assert Value(1.0) is not None; {Value(1.0): 1}",
    "sum builtin": "x = [Value(i) for i in range(5)]; y = sum(x); y.backward(); assert x[3].grad == 1",
    "sum empty": "assert pea.sum([]).data == 0",
    "sum generator": "assert pea.sum(Value(1.0) for _ in range(3)).data == 3",
    "sum of numbers": "assert pea.sum([1, 2, Value(3.0)]).data == 6",
    "mean grads": "x = Value(2.0); y = pea.sum([x] * 1000) / 1000; y.backward(); assert abs(x.grad - 1) < 1e-12",
    "1 ** inf": "x = Value(1.0); y = x ** float('inf'); assert y.data == 1",
    "overflow mul": "x = Value(1e308); y = x * 10; y.backward(); assert y.data == float('inf') and x.grad == 10",
    "MLP empty": "try: MLP(3, [])\nexcept ValueError: pass",
    "MLP zero": "try: MLP(0, [1])\nexcept ValueError: pass",
    "MLP numpy": "MLP(3, [4, 1])(np.array([1.0, 2.0, 3.0]))",
    "MLP generator": "MLP(3, [4, 1])(iter([1.0, 2.0, 3.0]))",
    "repr": "repr(Value(float('nan'))); repr(MLP(2, [2])); str(Value(1.0, '\\x1b'))",
    "deep mul": "x = y = Value(1.0)\nfor _ in range(50000): y = y * x\ny.backward(); assert x.grad == 50001",
}


TORCH = {  # name: a number, what is computed of it, and the same in torch
    "neg ** int": ("-2.0", "x ** 3", "t ** 3"),
    "pow zero": ("3.0", "x ** 0", "t ** 0"),
    "0 pow zero": ("0.0", "x ** 0", "t ** 0"),
    "0 pow 1": ("0.0", "x ** 1", "t ** 1"),
    "0 pow 2": ("0.0", "x ** 2", "t ** 2"),
    "big exponents": ("2.0", "x ** 1000", "t ** 1000"),
    "neg exponent": ("2.0", "x ** -3", "t ** -3"),
    "base 1": ("5.0", "1 ** x", "1 ** t"),
    "relu kink": ("0.0", "x.relu()", "torch.relu(t)"),
    "relu -0": ("-0.0", "x.relu()", "torch.relu(t)"),
    "abs kink": ("0.0", "abs(x)", "torch.abs(t)"),
    "tanh small": ("1e-9", "x.tanh()", "torch.tanh(t)"),
    "tanh large": ("19.0", "x.tanh()", "torch.tanh(t)"),
    "sigmoid -800": ("-800.0", "x.sigmoid()", "torch.sigmoid(t)"),
    "exp -1000": ("-1000.0", "x.exp()", "torch.exp(t)"),
    "log inf": ("float('inf')", "x.log()", "torch.log(t)"),
    "square by product": ("3.0", "x * x * x", "t * t * t"),
    "x / x": ("3.0", "x / x", "t / t"),
    "x ** x": ("2.5", "x ** x", "t ** t"),
    "pow float exponent": ("2.0", "x ** 0.5", "t ** 0.5"),
    "inf ** 0": ("float('inf')", "x ** 0", "t ** 0"),
    "nan ** 0": ("float('nan')", "x ** 0", "t ** 0"),
    "0.5 ** inf": ("0.5", "x ** float('inf')", "t ** float('inf')"),
    "inf ** -1": ("float('inf')", "x ** -1", "t ** -1"),
}
SAME = """
import torch
def same(y, grad, function, x):
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    result = function(t)
    result.backward()
    theirs = [result.item(), t.grad.item()]
    assert np.allclose([y, grad], theirs, rtol=1e-12, atol=0, equal_nan=True), (y, grad, *theirs)
"""


def pea() -> Iterator[Trial]:
    start = "import math\nimport numpy as np\nimport pea\nfrom pea import Value\nfrom pea.nn import MLP\n" + SAME
    for name, code in PEA.items():
        yield Trial(name, ["python", start + code], (0,))
    for name, (number, ours, theirs) in TORCH.items():
        code = f"x = Value({number}); y = {ours}; y.backward(); same(y.data, x.grad, lambda t: {theirs}, {number})"
        yield Trial(f"as in torch: {name}", ["python", start + code], (0,))


# ---------------------------------------------------------------- running

KINDS = {f.__name__: f for f in (files, strangers, work, bounds, bugs, blame, truth, pea)}
ODD = re.compile(r"(?m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]|^FORGED")


def trials(kinds: Iterable[str] = KINDS) -> list[Trial]:
    """Return all trials of these kinds."""
    return [replace(trial, kind=kind) for kind in kinds for trial in KINDS[kind]()]


def run_child(trial: Trial, world: Path) -> tuple[int | None, str, str]:
    """Run a trial's commands in a fork. Returns the exit code, None if it did not end in time, and the output."""
    logs = [world.parent / f"{world.name}.{name}" for name in ("out", "err")]
    master, slave = os.openpty() if trial.stdout == "pty" else (-1, os.open(os.devnull, os.O_RDWR))
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            os.setsid()
            _child(trial, world, logs, slave)
        finally:
            os._exit(99)
    os.close(slave)
    typed, end, code = b"", time.monotonic() + trial.seconds, None
    while code is None and time.monotonic() < end:
        if master >= 0 and select.select([master], [], [], 0)[0]:
            with suppress(OSError):  # the child has closed it
                typed += os.read(master, 65536)
        done, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.005 if code is None else 0)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if master >= 0:
        os.close(master)
    out, err = (log.read_bytes().decode(errors="replace") for log in logs)
    return code, out + typed.decode(errors="replace").replace("\r\n", "\n"), err


def _child(trial: Trial, world: Path, logs: Sequence[Path], slave: int) -> None:
    """Prepare this process as the trial says and run its commands. Never returns."""
    os.chdir(world)
    for number, log in enumerate(logs, 1):
        os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    reader, writer = os.pipe()
    os.close(reader)
    if trial.stdout in ("full", "broken", "pty"):
        os.dup2({"full": os.open("/dev/full", os.O_WRONLY), "broken": writer, "pty": slave}[trial.stdout], 1)
        os.dup2(1 if trial.stderr_too else 2, 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    if trial.stdout == "closed":
        os.close(1)
        sys.stdout = None  # as Python starts with a closed one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limit_memory(MEMORY)
    reports = {"runs", "report", "plugins", "--help", "nothing"} & {*trial.line}
    os.environ |= {"PEALM_CACHE": str(world / "cache"), "HOME": str(world), "https_proxy": "http://127.0.0.1:9"}
    os.environ |= {"PEALM_DISABLE_PLUGINS": "" if reports else "report", **trial.env}  # a picture takes a second
    sys.path.insert(0, str(world / "site"))
    code, command = 0, []
    try:
        trial.fault()
        for word in [*trial.line, "&&"]:
            if word != "&&":
                command.append(word)
            elif not code:
                code, command = _main(command), []
    except KeyboardInterrupt:
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
    os._exit(code)


def _main(words: list[str]) -> int:
    """Run a command, or code, and return its exit code."""
    try:
        if words[0] == "python":
            exec(words[1], {})
            return 0
        from pealm_core.cli import main

        main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 98


def snapshot() -> dict[str, Any]:
    """Return what every file below the current folder is, without the cache."""
    facts: dict[str, Any] = {}
    for folder, folders, names in os.walk("."):
        folders[:] = [name for name in folders if (folder, name) != (".", "cache")]
        for path in [Path(folder, name) for name in (*names, *folders)]:
            info = path.lstat()
            small = stat.S_ISREG(info.st_mode) and info.st_size < 2**30
            what = path.readlink() if stat.S_ISLNK(info.st_mode) else path.read_bytes() if small else None
            facts[str(path)] = what or stat.S_IFMT(info.st_mode)
    return facts


def complaints(trial: Trial, base: Path, home: Path) -> tuple[list[str], str]:
    """Run a trial in a copy of the world. Returns what is not as it should be, and the output."""
    world = home / f"trial-{os.getpid()}"
    shutil.rmtree(world, ignore_errors=True)
    shutil.copytree(base, world, symlinks=True)
    os.chdir(world)
    trial.setup()
    before = snapshot()
    code, out, err = run_child(trial, world)
    now, text, wrong = snapshot(), f"{out}\n{err}", []
    if code in trial.codes:
        pass
    elif code is None:
        wrong.append(f"did not end in {trial.seconds:.0f} s")
    else:
        wrong.append(f"exit {code}, expected {' or '.join(map(str, trial.codes))}")
    never = trial.never if trial.own else f"Traceback \\(most|bug in pealm|{trial.never or 'bug in pealm'}"
    if never and (match := re.search(never, text)):
        wrong.append(f"shows {match[0]!r}")
    if not re.search(trial.needs, text, re.DOTALL):
        wrong.append(f"does not show {trial.needs!r}")
    if trial.stdout != "pty" and (match := ODD.search(text)):
        wrong.append(f"prints {match[0]!r}")
    for path, what in before.items():
        may, keeps = (any(f"{path}/".startswith(f"{p}/") for p in paths) for paths in (trial.may, trial.keeps))
        if (keeps or not may) and now.get(path) != what:
            wrong.append(f"{path!r} {'was changed' if path in now else 'is gone'}")
    if not wrong:
        try:
            trial.after(out, err)
        except (AssertionError, OSError, ValueError, IndexError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
    os.chdir(home)
    return wrong, text


def attack(chosen: Sequence[Trial], *, jobs: int = 1, show: bool = False) -> int:
    """Run trials, print those that fail and a count by kind, and return how many fail. show: print all output."""
    load()
    counts, failed, started, here = Counter[str](), Counter[str](), time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        base = Path(name).resolve() / "base"
        base.mkdir()
        os.chdir(base)
        make_world()
        _chosen[:] = chosen  # a fork has them; most could not be sent to it
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            results = pool.imap(partial(_numbered, base), range(len(chosen)))
            for trial, (wrong, text) in zip(chosen, results, strict=True):
                counts[trial.kind] += 1
                failed[trial.kind] += bool(wrong)
                if wrong or show:
                    _show(trial, wrong, [line for line in text.splitlines() if line.strip()][0 if show else -1 :])
        os.chdir(here)
    for kind in counts:
        print(f"{kind:<10} {counts[kind]:5,} trials, {failed[kind]:3} fail")
    print(f"{'all':<10} {counts.total():5,} trials, {failed.total():3} fail, {time.monotonic() - started:.0f} s")
    return failed.total()


_chosen: list[Trial] = []


def _numbered(base: Path, number: int) -> tuple[list[str], str]:
    return complaints(_chosen[number], base, base.parent)


def _show(trial: Trial, wrong: Sequence[str], lines: Sequence[str]) -> None:
    print(f"{'FAIL' if wrong else 'ok'}  {trial.kind}: {trial.name!a:.110}")
    print(f"      $ {shlex.join(trial.line)!a:.160}\n      {'; '.join(wrong)!a:.300}")
    print("".join(f"      | {line!a:.220}\n" for line in lines), end="", flush=True)


def load() -> None:
    """Import what commands import, once for all forks."""
    import jinja2  # noqa: F401
    import torch

    import pealm_core
    from pealm_core.plugins.discovery import discover

    torch.set_num_threads(1)
    modules = {plugin.module.partition(".")[0] for plugin in discover()} - {""}
    for root in (pealm_core, *map(importlib.import_module, sorted(modules))):
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if not re.search("__main__|pytest_plugin|worker", module.name):
                with suppress(ImportError):
                    importlib.import_module(module.name)


def main() -> None:
    """Run the trials that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be repeated")
    parser.add_argument("--only", metavar="NAME", help="only trials whose name matches; up to 9: with their output")
    parser.add_argument("-n", type=int, metavar="N", help="only a random sample of so many")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default 1)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="trials at a time (default 2)")
    args = parser.parse_args()
    chosen = [
        trial for trial in trials(args.kind or KINDS) if re.search(args.only or "", f"{trial.kind}: {trial.name}")
    ]
    if args.n is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.n, len(chosen)))
    sys.exit(1 if attack(chosen, jobs=args.jobs, show=bool(args.only) and len(chosen) <= 9) else 0)


if __name__ == "__main__":
    main()
