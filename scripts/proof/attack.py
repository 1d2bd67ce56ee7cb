"""Try bad input, faults and hostile files on every command, and see that each ends as documented.

    python scripts/proof/attack.py                      all trials, some minutes
    python scripts/proof/attack.py --kind work          the trials of one kind
    python scripts/proof/attack.py --only "fifo.*init"  those whose name matches, with their output
    python scripts/proof/attack.py -n 60 --seed 1       a sample

Each trial runs in a copy of a small world, in a fork of one process that has torch loaded. For every trial holds: it
ends in time with an expected exit code, no traceback and no "bug in pealm" is shown, no control character and no forged
line is printed, and all files that existed before are there afterwards, byte for byte, except those that the trial may
change. Prints each trial that fails and a count by kind; ends with 1 if any fails.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import random
import re
import resource
import runpy
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no threads, which a fork would lose

MEMORY = 3 * 2**30  # bytes of address space for a trial, beyond what the parent has
SECONDS = 20.0
NOTHING: Callable[[], object] = lambda: None  # noqa: E731 (a default of several fields)


@dataclass(frozen=True)
class Trial:
    """A command line and how it must end.

    line: words; `&&` separates commands. setup: makes the trial's files, in its folder. fault: changes the process.
    needs, never: regular expressions for the output. may: paths that may change. keeps: paths in them that may not.
    after: a check of (stdout, stderr) that raises AssertionError. stdout: "file", "full", "closed", "broken" or "pty".
    """

    kind: str
    name: str
    line: Sequence[str]
    codes: Sequence[int] = (2,)
    setup: Callable[[], object] = NOTHING
    fault: Callable[[], object] = NOTHING
    needs: str = ""
    never: str = ""
    may: Sequence[str] = ()
    keeps: Sequence[str] = ()
    after: Callable[[str, str], object] = lambda out, err: None
    stdout: str = "file"
    env: Mapping[str, str] = field(default_factory=dict)
    seconds: float = SECONDS
    debug: bool = False  # a bug in a plugin may be shown as one


def fill(line: str, value: str = "") -> list[str]:
    """Return the words of a command line, with the word X, or X in an option's name, replaced by a value."""
    return [
        value if word == "X" else word.replace("=X", f"={value}").replace(".X", f".{value}") for word in line.split()
    ]


# ---------------------------------------------------------------- the world that each trial gets a copy of

TRAIN = "train char-bigram --input.text T --steps 20 --batch-size 4 --eval-tokens 64"
STEP = "R/checkpoints/step-00000020"
GPT2 = "train gpt2 --tokenizer char --input.text T --model.n-layer 1 --model.n-embd 16 --model.n-head 2"
BASE = (  # T: text, R: run, G: run of a gpt2, W: weights only, H: the gpt2 as Hugging Face has it
    f"{TRAIN} --sample-every 10 --out R",
    f"{GPT2} --model.block-size 16 --steps 2 --batch-size 2 --eval-tokens 64 --out G",
    "convert R W",
    "convert G H --to hf",
    "eval --ckpt R --on perplexity --input.text T --output R/eval.json",
)


def make_world() -> None:
    """Make the files of the world in the current folder."""
    import numpy as np

    write("T", "the quick brown fox jumps over the lazy dog\n" * 60)
    write("mine/thesis.txt", "years of work\n")
    write("mine/.notes.tmp", "more of it\n")
    Path("S").mkdir()
    for split in ("train", "val"):
        np.save(f"S/{split}.npy", np.arange(400, dtype=np.uint16) % 20)
    for line in BASE:
        code, out, err = run_child(Trial("base", "base", fill(line)), Path.cwd())
        if code:
            sys.exit(f"{line}: exit {code}\n{out}{err}")


def write(name: str, content: str | bytes = "x\n") -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def remove(name: str) -> None:
    if Path(name).is_dir() and not Path(name).is_symlink():
        shutil.rmtree(name)
    else:
        Path(name).unlink(missing_ok=True)


def edit(name: str, old: str, new: str) -> None:
    """Replace in a file what a regular expression matches; it has to match."""
    text, count = re.subn(old, lambda _: new, Path(name).read_text())
    assert count, f"{name} has no {old}"
    Path(name).write_text(text)


def sign(folder: str) -> None:
    """Give a checkpoint the hashes of its files, as whoever made it on purpose would."""
    state = json.loads(Path(folder, "state.json").read_text())
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "state.json"]
    state["files"] = {
        str(path.relative_to(folder)): [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in paths
    }
    Path(folder, "state.json").write_text(json.dumps(state))


def in_place(name: str, make: Callable[[str], object], *, signed: str = "") -> Callable[[], None]:
    """Return a setup that replaces a file of the world by something else; signed: the checkpoint it is in."""

    def setup() -> None:
        remove(name)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        make(name)
        if signed:
            sign(signed)

    return setup


def all_of(*setups: Callable[[], object]) -> Callable[[], None]:
    return lambda: [setup() for setup in setups] and None


def content(data: str | bytes) -> Callable[[str], None]:
    return lambda name: write(name, data)


def sock(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)


# What a path can be instead of a file that is as it should be.
ENDLESS: dict[str, Callable[[str], object]] = {
    "fifo": os.mkfifo,
    "socket": sock,
    "zeros": lambda name: os.symlink("/dev/zero", name),
    "folder": os.mkdir,
    "dangling link": lambda name: os.symlink("nowhere", name),
    "loop": lambda name: os.symlink(Path(name).name, name),
}
DEEP, LONG = "[" * 5000 + "]" * 5000, "9" * 5000
GARBAGE: dict[str, Callable[[str], object]] = {
    "empty": content(""),
    "zeros": content(b"\0" * 4096),
    "not UTF-8": content(b"\xff\xfe{}\n" * 9),
    "a list": content("[1]"),
    "null": content("null"),
    "a number": content("7"),
    "deep": content(DEEP),
    "a long number": content(LONG),
    "NaN": content('{"step": NaN, "status": NaN, "files": NaN, "val_loss": NaN}'),
    "wrong types": content(
        '{"step": [], "status": {}, "files": 3, "val_loss": "x", "text": 1, "parameters": "many"}'
    ),
    "control characters": content(
        r'{"step": 1, "status": "\u001b[2J\nFORGED", "text": "\u001b[2J", "device": "\u001b"}'
    ),
    "missing": lambda name: None,
}
NAMES = {
    "not UTF-8": "\udcff\udcfe",
    "300 bytes": "n" * 300,
    "5000 bytes": "n" * 5000,
    "empty": "",
    "newline": "a\nFORGED",
    "escape": "\x1b[31mred",
    "bidi": "\u202egnp",
    "parent": "..",
    "dash": "-x",
    "braces": "%s{0}[*",
}
NUMBERS = (
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "10" * 10,
    LONG,
    "٣x",
    "",
    " ",
    "0x10",
    "true",
    "1e-39",
)


# ---------------------------------------------------------------- 1. the user's files are the user's


def files() -> Iterator[Trial]:
    strays = (
        "thesis.txt",
        ".notes.tmp",
        "best.old",
        ".best.old",
        "best/notes.txt",
        "checkpoints/notes.txt",
        "sub/a.txt",
    )
    strays += (
        ".config.toml.swp",
        "best/tokenizer/mine.txt",
        f"{STEP[2:]}/mine.txt",
        ".step-1.tmp",
        "config.toml.bak",
    )
    for stray in strays:
        for line in ("clean R --yes", "clean . --yes", "clean R --keep-best --yes", "clean --only leftovers R --yes"):
            stay = (f"R/{stray}",)
            yield Trial(
                "files",
                f"stray {stray}: {line}",
                fill(line),
                (0,),
                lambda s=stray: write(f"R/{s}"),
                may="R",
                keeps=stay,
            )
    ours = ("config.toml", "run.json", "metrics.jsonl", "samples.jsonl", ".lock", ".pealm", "best/model.safetensors")
    ours += (
        "best/state.json",
        f"{STEP[2:]}/optimizer.safetensors",
        "best/tokenizer/tokenizer.json",
        "best",
        "checkpoints",
    )
    for name in ours:
        for line in ("report R --output X", "eval --ckpt R --on perplexity --input.text T --output X"):
            yield Trial("files", f"{line} {name}", fill(line, f"R/{name}"))
    for place in ("R", "R/best", "R/checkpoints", "G", "W", "mine", "mine/thesis.txt", "T", "R/config.toml"):
        for line in ("convert R X", "convert G X --to hf", "convert H X --from hf", f"{TRAIN} --out X --seed 7"):
            new = (0, 2) if place == "mine" and "train" in line else (2,)
            yield Trial("files", f"onto {place}: {line}", fill(line, place), new)
    for line in (
        "new-plugin mine",
        "train --out mine",
        "clean mine --yes",
        "clean T --yes",
        "runs mine",
        "report mine",
    ):
        yield Trial("files", line, fill(line), (0,) if "runs" in line or "clean m" in line else (2,))
    again = "train --out R --steps 30 && eval --ckpt R --on perplexity --input.text T"
    yield Trial(
        "files",
        "best is not replaced by worse",
        fill(again),
        (0,),
        lambda: pretend_best(-1.0),
        may="R",
        keeps=("R/best",),
    )
    kept = f"clean R --keep-best --yes && {TRAIN} --out R"
    yield Trial(
        "files",
        "best survives --keep-best and resume",
        fill(kept),
        (0, 2),
        lambda: pretend_best(-1.0),
        may="R",
        keeps=("R/best/model.safetensors",),
    )


def pretend_best(loss: float) -> None:
    for folder in ("R/best", STEP):
        edit(f"{folder}/state.json", r'"best_loss": [\d.]+', f'"best_loss": {loss}')


# ---------------------------------------------------------------- 2. what a stranger made stays inside itself

READERS = ("sample --ckpt R -n 3", "report R --output page.html", "runs .", "clean R --dry-run")
USERS = (*READERS, "train --out R --steps 22", "clean R --yes", "clean R --keep-best --yes", "convert R N")
CHECKPOINT = ("config.toml", "model.safetensors", "state.json", "tokenizer", "tokenizer/vocabulary.json")


def strangers() -> Iterator[Trial]:
    places = (
        ".lock",
        ".pealm",
        "config.toml",
        ".config.toml.tmp",
        "run.json",
        "metrics.jsonl",
        "samples.jsonl",
        "loss.png",
    )
    for place in (*places, "checkpoints", "best", STEP[2:], "best/model.safetensors", "best/tokenizer", ".best.tmp"):
        for line in USERS:
            target = (
                "mine"
                if place in ("checkpoints", "best", STEP[2:], "best/tokenizer", ".best.tmp")
                else "mine/thesis.txt"
            )
            link = in_place(f"R/{place}", lambda name, t=target: os.symlink(Path(t).absolute(), name))
            yield Trial("strangers", f"link {place}: {line}", fill(line), (0, 1, 2), link, may="R")
    for name, odd in NAMES.items():
        if name in ("newline", "escape", "bidi"):
            for line in (
                "runs .",
                "report X --output p.html",
                "sample --ckpt X -n 3",
                "clean . --dry-run",
                "train --out X",
                "convert X N",
            ):
                yield Trial(
                    "strangers",
                    f"run's name, {name}: {line}",
                    fill(line, odd),
                    (0, 2),
                    lambda o=odd: os.rename("R", o),
                    may=("R", odd),
                )
            for key in ("char-bigram", "text", "T"):
                text = json.dumps(odd)
                bad = all_of(
                    lambda k=key, t=text: edit("R/config.toml", rf'"{k}"|^{k}(?= =)', t),
                    lambda k=key, t=text: edit("R/best/config.toml", rf'"{k}"', t) if k != "text" else None,
                    lambda: sign("R/best"),
                )
                for line in READERS[:3]:
                    yield Trial("strangers", f"config's {key}, {name}: {line}", fill(line), (0, 2), bad, may="R")
    screen = all_of(lambda: write("T", "a\x1b[2Jb\x07c" * 300), lambda: remove("R"))
    shown = fill(f"{TRAIN} --out R && sample --ckpt R -n 50 --seed 1 && sample --ckpt R -n 50 --num-samples 2")
    yield Trial(
        "strangers", "a model that writes escapes to a terminal", shown, (0,), screen, may=("R", "T"), stdout="pty"
    )
    for line in ("../evil", "/tmp/evil", "a/../../evil", "tokenizer/../../../mine/thesis.txt", "/etc/passwd"):
        listed = lambda n=line: edit("R/best/state.json", '"files": {', f'"files": {{{json.dumps(n)}: [1, "0"], ')  # noqa: E731
        for command in ("sample --ckpt R -n 3", "clean R --yes", "clean R/best --yes", "convert R N"):
            yield Trial("strangers", f"state.json lists {line}: {command}", fill(command), (0, 2), listed, may="R")


# ---------------------------------------------------------------- 3. work is not lost, least of all silently


def work() -> Iterator[Trial]:
    new = fill(f"{TRAIN} --save-every 5 --eval-every 5 --out N")
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"):
        number = getattr(signal, name)
        for where, place in {
            "a step": "Trainer.gradients",
            "validation": "Trainer.validate",
            "a save": "Saver.save",
        }.items():
            fault = lambda n=number, p=place: after_calls(p, 3, lambda: os.kill(os.getpid(), n))  # noqa: E731
            check = lambda out, err: saved("N", "interrupted")  # noqa: E731
            yield Trial(
                "work", f"{name} in {where}", new, (128 + number,), fault=fault, after=check, needs="resume with"
            )
        twice = lambda n=number: after_calls(
            "Trainer.gradients", 3, lambda: [os.kill(os.getpid(), s) for s in (n, signal.SIGTERM)]
        )  # noqa: E731
        yield Trial(
            "work",
            f"{name}, then SIGTERM",
            new,
            (128 + number, 143),
            fault=twice,
            after=lambda out, err: saved("N", "interrupted"),
        )
    for stdout in ("full", "closed", "broken", "pty"):
        wanted = (0, 1) if stdout in ("full", "closed") else (0,)
        yield Trial(
            "work", f"stdout is {stdout}", new, wanted, stdout=stdout, after=lambda out, err: saved("N", "done")
        )
        err_too = lambda: os.dup2(1, 2)  # noqa: E731
        yield Trial(
            "work",
            f"stdout and stderr are {stdout}",
            new,
            wanted,
            stdout=stdout,
            fault=err_too,
            after=lambda out, err: saved("N", "done"),
        )
    folder = lambda handle, *rest: stat.S_ISDIR(os.fstat(handle).st_mode)  # noqa: E731
    refusals: list[tuple[str, Any, str, Sequence[int], Callable[..., bool], int]] = [
        ("fsync of folders", os, "fsync", (errno.EINVAL, errno.ENOSYS, errno.EPERM), folder, 999),
        ("chmod", os, "chmod", (errno.EPERM, errno.EOPNOTSUPP), always, 999),
        ("flock", fcntl, "flock", (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL), always, 999),
        ("hard links", os, "link", (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS), always, 999),
        ("one rename", os, "rename", (errno.EIO, errno.EBUSY, errno.EACCES, errno.ENOSPC), always, 1),
        ("one replace", os, "replace", (errno.EIO, errno.EBUSY, errno.EACCES), always, 1),
        ("one mkdir", os, "mkdir", (errno.ENOSPC, errno.EIO), lambda path, *rest: ".step" in str(path), 1),
        ("one rmdir", os, "rmdir", (errno.EBUSY, errno.ENOTEMPTY, errno.EIO), always, 1),
        ("one unlink", os, "unlink", (errno.EBUSY, errno.EIO), always, 1),
    ]
    for name, module, function, numbers, when, times in refusals:
        for number in numbers:
            fault = lambda m=module, f=function, n=number, w=when, t=times: refuse(m, f, n, w, t)  # noqa: E731
            codes = (0, 2) if name == "one replace" else (0,)  # of the config before the first step
            yield Trial(
                "work",
                f"{name}: {errno.errorcode[number]}",
                new,
                codes,
                fault=fault,
                after=lambda out, err: saved("N", "done"),
                never="in use by",
            )
    for function in ("rename", "replace", "fsync", "mkdir"):
        inside = lambda f=function: after_calls("Trainer.gradients", 3, lambda: refuse(os, f, errno.EIO, always, 999))  # noqa: E731
        yield Trial(
            "work",
            f"every {function} fails from step 3",
            new,
            (1,),
            fault=inside,
            needs="could not be written|can't be written",
        )
    full = lambda: after_calls("Trainer.gradients", 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)))  # noqa: E731
    yield Trial(
        "work", "no file may grow from step 3", new, (1,), fault=full, needs="could not be written|can't be written"
    )
    gone = lambda: after_calls("Trainer.gradients", 3, lambda: shutil.rmtree("N"))  # noqa: E731
    yield Trial("work", "the run's folder vanishes", new, (1,), fault=gone, needs="vanished")
    for name, error in {
        "NaN": ValueError("x"),
        "MemoryError": MemoryError(),
        "SystemExit": SystemExit(0),
        "panic": BaseException("x"),
    }.items():
        fault = lambda e=error: after_calls("Trainer.gradients", 8, lambda: throw(e))  # noqa: E731
        yield Trial(
            "work",
            f"{name} in step 8",
            new,
            (1, 3),
            fault=fault,
            after=lambda out, err: saved("N", "failed"),
            debug=True,
        )
    dead = lambda: edit("R/run.json", '"done"', '"running"')  # noqa: E731
    yield Trial("work", "a dead run is not running", fill("runs ."), (0,), dead, may="R", never="running")
    yield Trial(
        "work",
        "clean: a dead run is not running",
        fill("clean . --dry-run"),
        (0,),
        dead,
        may="R",
        never="in use|running",
    )


def always(*args: Any, **kwargs: Any) -> bool:
    return True


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


def after_calls(place: str, count: int, do: Callable[[], object]) -> None:
    """Do something in the given call of a method of training."""
    from pealm_core.training import saving, trainer

    kind, _, name = place.partition(".")
    owner = getattr(trainer, kind, None) or getattr(saving, kind)
    real, calls = getattr(owner, name), iter(range(1, 10**9))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            do()
        return real(*args, **kwargs)

    setattr(owner, name, call)


def saved(run: str, status: str) -> None:
    """Check that a run says how it ended, and that its newest checkpoint is valid and of the last step."""
    from pealm_core.checkpoints import folder as checkpoint

    told = json.loads(Path(run, "run.json").read_text())["status"]
    assert told == status, f"run.json says {told!r} instead of {status!r}"
    newest, wrong = checkpoint.newest(Path(run))
    last = json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert newest is not None and not wrong, f"no valid checkpoint: {wrong}"
    behind = 5 if status == "failed" else 0
    assert int(newest.name[5:]) >= last - behind, f"{newest.name} is saved and step {last} was made"
    assert not list(Path(run).rglob("*.tmp")), "a temporary file is left"


# ---------------------------------------------------------------- 4. everything ends, in bounded time and memory

INPUTS = (
    "train --config X", f"{TRAIN} --init X", f"{TRAIN} --init X.pt", f"{TRAIN} --init X.safetensors", f"{TRAIN} --out X",
    "train char-bigram --input.text X --steps 2", "train char-bigram --input.npy-shards X --steps 2", "sample --ckpt X",
    "sample --ckpt R --prompt-file X -n 2", "sample --ckpt R --tokenizer-dir X -n 2", "convert X N", "convert X N --from hf",
    "report X", "runs X", "clean X --yes", "eval --ckpt R --on perplexity --input.text X", "plugins check X",
)  # fmt: skip
SIZES = (
    "model.n-layer",
    "model.n-embd",
    "model.n-head",
    "model.block-size",
    "batch-size",
    "block-size",
    "micro-batch-size",
)


def bounds() -> Iterator[Trial]:
    for line in INPUTS:
        suffix = next((end for end in (".pt", ".safetensors") if end in line), "")
        for name, make in ENDLESS.items():
            words = [word.replace("X", "odd") if word.startswith("X") else word for word in line.split()]
            fine = name == "folder" and (
                "clean" in line or "runs" in line or "--out" in line or "tokenizer-dir" in line
            )
            yield Trial(
                "bounds",
                f"{name}: {line}",
                words,
                (0, 2) if fine else (2,),
                in_place(f"odd{suffix}", make),
                may=("odd",),
            )
    for place in ("config.toml", "run.json", "metrics.jsonl", "samples.jsonl", ".lock", "other.json", "loss.png"):
        for line in USERS:
            yield Trial(
                "bounds",
                f"fifo at {place}: {line}",
                fill(line),
                (0, 1, 2),
                in_place(f"R/{place}", os.mkfifo),
                may="R",
            )
    for place in (
        "best/config.toml",
        "best/state.json",
        "best/model.safetensors",
        "best/tokenizer/vocabulary.json",
        f"{STEP[2:]}/state.json",
        f"{STEP[2:]}/optimizer.safetensors",
    ):
        for line in ("sample --ckpt R -n 3", "train --out R --steps 22", "convert R N", "clean R --yes"):
            yield Trial(
                "bounds",
                f"fifo at {place}: {line}",
                fill(line),
                (0, 1, 2),
                in_place(f"R/{place}", os.mkfifo),
                may="R",
            )
    for option in SIZES:
        for number in ("1000000000", "99999999999999999999", LONG, "-1", "0", "nan"):
            command = f"{GPT2} --steps 1 --out N --{option} X"
            yield Trial("bounds", f"--{option} {number:.22}", fill(command, number), (1, 2), seconds=10)
    for option in ("n", "num-samples", "top-k", "top-p", "min-p", "temperature", "repetition-penalty", "seed"):
        for number in NUMBERS:
            short = "" if option == "n" else "-n 2"
            yield Trial(
                "bounds",
                f"sample {option} {number:.12}",
                fill(f"sample --ckpt R {short} {'-' if option == 'n' else '--'}{option} X", number),
                (0, 2),
            )
    for option in (
        "steps",
        "max-seconds",
        "lr",
        "warmup-steps",
        "min-lr-ratio",
        "decay-fraction",
        "grad-clip",
        "eval-every",
        "eval-tokens",
        "keep",
        "seed",
    ):
        for number in NUMBERS:
            yield Trial(
                "bounds",
                f"train {option} {number:.12}",
                fill(f"train char-bigram --input.text T --{option} X --print-config", number),
                (0, 2),
            )
    for number in NUMBERS:
        yield Trial(
            "bounds",
            f"eval limit {number:.12}",
            fill("eval --ckpt R --on perplexity --input.text T --limit X", number),
            (0, 2),
        )
        yield Trial(
            "bounds", f"clean older than {number:.12}", fill("clean R --dry-run --older-than X", number), (0, 2)
        )
    for key in ("vocab_size", "block_size", "n_embd", "n_layer"):
        for number in ("1000000000", "99999999999999999999", "-1", "0", "1.5", '"x"', "true", "[]"):
            name = key.replace("_", "-")
            bad = all_of(
                lambda n=name, v=number: edit("G/best/config.toml", rf"(?m)^{n} = \d+", f"{n} = {v}"),
                lambda: sign("G/best"),
            )
            yield Trial(
                "bounds",
                f"checkpoint's {key} {number}",
                fill("sample --ckpt G -n 2"),
                (1, 2),
                bad,
                may="G",
                seconds=10,
            )
            theirs = {"block_size": "n_positions"}.get(key, key)
            hf = lambda k=theirs, v=number: edit("H/config.json", rf'"{k}": \d+', f'"{k}": {v}')  # noqa: E731
            yield Trial(
                "bounds", f"foreign {theirs} {number}", fill("convert H N --from hf"), (1, 2), hf, may="H", seconds=10
            )
    huge = in_place("odd.safetensors", content(struct.pack("<Q", 2**62) + b"{}"))
    yield Trial("bounds", "a header of 2^62 bytes", fill(f"{TRAIN} --init odd.safetensors"), setup=huge)
    for name, source in {
        "sleeps": "import time; time.sleep(99)",
        "never stops": "while True: pass",
        "yields for ever": HOOK + "    while True: yield 1",
    }.items():
        for line in ("plugins", "train char-bigram --input.text T --steps 2"):
            yield Trial(
                "bounds",
                f"plugin that {name}: {line}",
                fill(line),
                (0, 3),
                plugin(source),
                needs="odd.*(PEALM_DISABLE_PLUGINS|switch|disable)",
                seconds=12,
            )
    big = lambda: write("T", "the quick brown fox jumps over the lazy dog\n" * 500_000)  # noqa: E731
    yield Trial(
        "bounds",
        "22 MB of text in 400 MB",
        fill(TRAIN),
        (0,),
        big,
        fault=lambda: limit_memory(400 * 2**20),
        may="T",
        seconds=60,
    )


def limit_memory(more: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


# ---------------------------------------------------------------- 5. "a bug in pealm" is said only of one

NAMED = (
    "X", "train X", "train char-bigram --input.text X", f"{TRAIN} --out X", "train --config X", f"{TRAIN} --preset X",
    "train char-bigram --steps 2 --input.X T", f"{TRAIN} --tokenizer X", f"{TRAIN} --optimizer X", f"{TRAIN} --init X",
    "sample --ckpt X", "sample --ckpt R -n 2 --prompt X", "sample --ckpt R -n 2 --prompt-file X", "sample --ckpt R --stop X -n 2",
    "sample --ckpt R --tokenizer-dir X", "eval --ckpt R --on X", "eval --ckpt R --on perplexity --input.text T --output X",
    "convert X N", "convert R X", "convert R N --to X", "report X", "report R --output X", "runs X", "clean X --dry-run",
    "new-plugin X", "plugins show X", "prepare X", "sample --ckpt R --model.X 3 -n 2", f"{TRAIN} --sample-every 10 --sample-prompt X",
)  # fmt: skip
PRINTING = (
    "--help", "--version", "plugins", "train --help", "train char-bigram --input.text T --print-config", "sample --ckpt R -n 9",
    "sample --ckpt R -n 9 --json", "eval --ckpt R --on perplexity --input.text T", "runs .", "report R --output p.html",
    "clean R --dry-run", "convert R N", "new-plugin fresh",
)  # fmt: skip
TOML = {
    "deep": f"a = {DEEP}", "deep table": "[" + ".".join("a" * 900) + "]", "long number": f"[train]\nsteps = {LONG}", "not UTF-8": b"a = '\xff'",
    "BOM": "\ufeff[train]\nsteps = 2", "NUL": "[train]\0", "dates": "[train]\nsteps = 2026-01-01", "nan": "[train]\nlr = nan",
    "inf": "[train]\nlr = inf", "list": "[train]\nsteps = [2]", "text": "train = 'x'", "table array": "[[train]]\nsteps = 2",
    "two inputs": "[[input]]\ntext = 'T'\n[[input]]\ntext = 'T'", "two spellings": "[train]\nbatch-size = 2\nbatch_size = 4",
    "twice": "[train]\nsteps = 2\nsteps = 3", "empty key": "[train]\n'' = 2", "odd key": '[train]\n"\\u001b[2J\\nFORGED" = 2',
    "table as value": "[train.steps]\nx = 1", "model is a list": "[model]\nname = ['gpt2']", "model is empty": "[model]\nname = ''",
    "inline": "train = {steps = 2, lr = {}}", "plugins is text": "plugins = 'x'", "disable is a number": "[plugins]\ndisable = 3",
    "input is two": "[input]\ntext = 'T'\ntinyshakespeare = true", "versions is text": "versions = 3", "bool": "[train]\nsteps = true",
}  # fmt: skip
ENVIRONMENTS = (
    {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "2", "RANK": "5"},
    {"WORLD_SIZE": "-1", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, {"PEALM_CACHE": "T"}, {"PEALM_CACHE": "/dev/null"},
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, {"PEALM_CACHE": "\udcff"},
    {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "29500"}, {"HOME": ""},
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "none0"},
    {"TORCHELASTIC_RESTART_COUNT": "x"}, {"COLUMNS": "x"}, {"LANG": "C", "LC_ALL": "C"}, {"TERM": "dumb"}, {"TMPDIR": "/nowhere"},
    {"PEALM_DISABLE_PLUGINS": ",, ,x"}, {"PEALM_DISABLE_PLUGINS": "char-bigram"}, {"OMP_NUM_THREADS": "x"}, {"PEALM_DEBUG": "1"},
)  # fmt: skip


def bugs() -> Iterator[Trial]:
    for line in NAMED:
        for name, odd in NAMES.items():
            yield Trial("bugs", f"{name}: {line}", fill(line, odd), (0, 2), may="R" if name == "parent" else ())
    for line in PRINTING:
        for stdout, code in {"full": 1, "closed": 1, "broken": 0}.items():
            yield Trial("bugs", f"stdout is {stdout}: {line}", fill(line), (code,), stdout=stdout)
    for name, text in TOML.items():
        yield Trial(
            "bugs",
            f"TOML, {name}: --config",
            fill("train char-bigram --input.text T --config c.toml --print-config"),
            (0, 2),
            lambda t=text: write("c.toml", t),
        )
        damaged = all_of(lambda t=text: write("R/best/config.toml", t), lambda: sign("R/best"))
        yield Trial("bugs", f"TOML, {name}: a checkpoint's", fill("sample --ckpt R -n 2"), (0, 2), damaged, may="R")
        run = lambda t=text: write("R/config.toml", t)  # noqa: E731
        for line in ("train --out R --print-config", "runs .", "report R --output p.html", "clean . --dry-run"):
            yield Trial("bugs", f"TOML, {name}: {line}", fill(line), (0, 2), run, may="R")
    for place in (*(f"R/best/{name}" for name in CHECKPOINT), f"{STEP}/state.json", f"{STEP}/optimizer.safetensors"):
        for name, make in GARBAGE.items():
            for signed in ("", str(Path("R", "best") if "best" in place else STEP)):
                if signed and (name == "missing" or place.endswith(("state.json", "tokenizer"))):
                    continue
                line = "sample --ckpt R -n 2" if "best" in place else "train --out R --steps 22"
                again = {"files": (0, 1, 2)}.get("", (0, 1, 2) if "checkpoints" in place else (0, 2))
                yield Trial(
                    "bugs",
                    f"{place} is {name}{', signed' if signed else ''}",
                    fill(line),
                    again,
                    in_place(place, make, signed=signed),
                    may="R",
                )
    for name, make in GARBAGE.items():
        for suffix in (".pt", ".safetensors", ".bin", ""):
            yield Trial(
                "bugs",
                f"--init {name}{suffix}",
                fill(f"{TRAIN} --init odd{suffix}"),
                setup=in_place(f"odd{suffix}", make),
            )
        for place in ("config.json", "model.safetensors"):
            yield Trial(
                "bugs",
                f"foreign {place} is {name}",
                fill("convert H N --from hf"),
                setup=in_place(f"H/{place}", make),
                may="H",
            )
        for place in ("train.npy", "meta.json"):
            codes = (0, 2) if place == "meta.json" else (2,)
            yield Trial(
                "bugs",
                f"shard {place} is {name}",
                fill("train char-bigram --input.npy-shards S --steps 2"),
                codes,
                in_place(f"S/{place}", make),
                may="S",
            )
        for place in ("train.bin", "val.bin", "meta.json", ""):
            if place or name not in ("missing",):
                bad = lambda m=make, p=place: [
                    in_place(str(f / p) if p else str(f), m)() for f in Path("cache/tokens").glob("?" * 32)
                ]  # noqa: E731
                yield Trial("bugs", f"token cache {place or 'folder'} is {name}", fill(TRAIN), (0,), bad)
    for env in ENVIRONMENTS:
        for line in (f"{TRAIN} --out N", "plugins"):
            words = " ".join(f"{key}={value!a}" for key, value in env.items())
            yield Trial(
                "bugs",
                f"{words}: {line}",
                fill(line),
                (0, 1, 2),
                env=env,
                seconds=40,
                needs="" if "x" in words or "plugins" in line else "",
            )
    early = lambda: after_import("pealm_core.cli.group", lambda: os.kill(os.getpid(), signal.SIGINT))  # noqa: E731
    yield Trial("bugs", "Ctrl-C while pealm is imported", fill("plugins"), (130,), fault=early)


def after_import(module: str, do: Callable[[], object]) -> None:
    """Do something when a module is next imported."""

    class Finder:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == module:
                do()

    sys.modules.pop(module, None)
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


# ---------------------------------------------------------------- 6. the right one is blamed

HOOK = "from pealm_core import DatasetSpec, ModelSpec, TokenizerSpec, hookimpl\n@hookimpl\ndef pealm_datasets():\n"
IMPORTS = {
    "prints": "print('FORGED')", "writes to stdout": "import sys; sys.stdout.write('FORGED')", "prints to fd 1": "import os; os.write(1, b'FORGED')",
    "exits": "raise SystemExit(0)", "raises BaseException": "raise BaseException('panic')", "raises": "raise ValueError('\\x1b[2J\\nFORGED')",
    "interrupts": "raise GeneratorExit", "recurses": "def f(): f()\nf()", "is not Python": "def", "is not UTF-8": b"x = '\xff'", "has a NUL": b"x = 1\0",
    "imports torch": "import torch", "imports nothing there": "import no_such_module", "warns": "import warnings; warnings.warn('x')",
    "runs out of memory": "raise MemoryError", "returns None": HOOK + "    return None", "returns 5": HOOK + "    return 5", "returns text": HOOK + "    return 'x'",
    "raises in a hook": HOOK + "    raise BaseException('x')", "yields 5": HOOK + "    yield 5", "has an odd name": HOOK + "    yield DatasetSpec(name='\\x1b', summary='x', factory='a:b')",
    "has an odd summary": HOOK + "    yield DatasetSpec(name='x', summary='\\x1b[2J', factory='a:b')", "names a module that is not there": HOOK + "    yield DatasetSpec(name='x', summary='x', factory='a:b')",
    "has numbers for names": HOOK + "    yield DatasetSpec(name=1, summary=2, factory=3)", "takes text's name": HOOK + "    yield DatasetSpec(name='other', summary='x', factory='a:b')",
    "closes stdout": "import sys; sys.stdout.close()", "changes the folder": "import os; os.chdir('/')", "has a hook that is not known": "from pealm_core import hookimpl\n@hookimpl\ndef pealm_nothing(): pass",
}  # fmt: skip
ENTRIES: dict[str, str | bytes] = {
    "not UTF-8": b"[pealm]\n\xff = x", "no =": "[pealm]\nodd", "empty module": "[pealm]\nodd =", "empty name": "[pealm]\n= odd_plugin", "odd module": "[pealm]\nodd = a b c",
    "control characters": "[pealm]\n\x1b[2J = odd_plugin", "twice": "[pealm]\nodd = odd_plugin\nodd = odd_plugin", "two sections": "[pealm]\n[pealm]\nodd = x",
    "attribute": "[pealm]\nodd = odd_plugin:x", "extras": "[pealm]\nodd = odd_plugin [x]", "relative": "[pealm]\nodd = .odd_plugin", "zeros": b"[pealm]\n" + b"\0" * 99,
    "the core": "[pealm]\nodd = pealm_core", "empty": "[pealm]", "long": "[pealm]\n" + "n" * 99999 + " = x",
}  # fmt: skip
REQUIRES = (
    "pealm-core (banana)",
    "pealm-core >=99",
    "pealm-core ==",
    "pealm-core @ file:///x",
    "pealm-core >=0; extra == 'x'",
    "\x1b[2J",
    "pealm-core \udcff",
)
HARMLESS = ("plugins", "--help", "sample --ckpt R -n 2 --json", "train char-bigram --input.text T --print-config")


def plugin(
    source: str | bytes, entries: str | bytes = "[pealm]\nodd = odd_plugin\n", requires: str = ""
) -> Callable[[], None]:
    """Return a setup that installs a plugin: the source of its module, its entry points and what it needs."""

    def setup() -> None:
        write("site/odd_plugin.py", source)
        write("site/pealm_odd-1.0.dist-info/entry_points.txt", entries)
        write(
            "site/pealm_odd-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: pealm-odd\nVersion: 1.0\nRequires-Dist: {requires}\n",
        )

    return setup


def is_json(out: str, err: str) -> None:
    json.loads(out)


def blame() -> Iterator[Trial]:
    cases = {name: plugin(source) for name, source in IMPORTS.items()}
    cases |= {f"has entry points: {name}": plugin("", text) for name, text in ENTRIES.items()}
    cases |= {f"needs {text!a}": plugin("", requires=text) for text in REQUIRES}
    info = "site/pealm_odd-1.0.dist-info"
    cases |= {
        f"has a {name} for entry points": all_of(plugin(""), in_place(f"{info}/entry_points.txt", make))
        for name, make in ENDLESS.items()
    }
    cases |= {
        f"has a {name} for METADATA": all_of(plugin(""), in_place(f"{info}/METADATA", make))
        for name, make in ENDLESS.items()
    }
    for name, setup in cases.items():
        for line in HARMLESS:
            check = is_json if "--json" in line else Trial.after
            shown = "odd" if line == "plugins" and name not in ("empty",) else ""
            odd = (
                "entry points: empty" in name
                or "for entry points" in name
                or "empty name" in name
                or name.startswith("needs")
            )
            yield Trial(
                "blame",
                f"plugin that {name}: {line}",
                fill(line),
                (0,),
                setup,
                after=check,
                needs="" if odd else shown,
                never="(?m)^FORGED" if line != "plugins" else "",
            )
    for name, code in {
        "os._exit(0)": "import os; os._exit(0)",
        "SystemExit(0)": "raise SystemExit(0)",
        "Exit": "import click; raise click.exceptions.Exit(0)",
    }.items():
        for line in (
            "plugins",
            "train char-bigram --input.odd --steps 2",
            "eval --ckpt R --on perplexity --input.odd",
        ):
            made = f"    yield DatasetSpec(name='odd', summary='odd', factory='odd_plugin:make')\ndef make():\n    {code}\n"
            fine = (0,) if line == "plugins" else (1, 3)
            yield Trial("blame", f"{name} in a factory: {line}", fill(line), fine, plugin(HOOK + made))
    for place in ("run.json", "metrics.jsonl", "samples.jsonl", "eval.json"):
        for name, make in GARBAGE.items():
            for line in (
                "runs .",
                "runs . --json",
                "report R --output p.html",
                "clean . --dry-run",
                "train --out R --steps 22",
            ):
                others = "G" if "." in line.split()[1] else ""
                yield Trial(
                    "blame",
                    f"{place} is {name}: {line}",
                    fill(line),
                    (0,),
                    in_place(f"R/{place}", make),
                    may="R",
                    needs=others,
                )
    memory = lambda: after_calls(
        "Trainer.gradients", 2, lambda: throw(MemoryError("DefaultCPUAllocator: can't allocate memory"))
    )  # noqa: E731
    yield Trial(
        "blame",
        "out of memory in a step",
        fill(TRAIN),
        (1,),
        fault=memory,
        needs="out of memory",
        never="failed to load",
    )
    yield Trial(
        "blame", "the list of components has no duplicates", fill("train nothing --input.text T"), after=no_duplicates
    )
    yield Trial(
        "blame", "an unknown command lists all", fill("nothing"), needs="train.*sample.*runs", after=no_duplicates
    )


def no_duplicates(out: str, err: str) -> None:
    names = re.split(r"[,:;()\s]+", err)
    twice = [name for name, count in Counter(names).items() if count > 1 and len(name) > 7 and "-" in name]
    assert not twice, f"twice in the list: {twice}"


# ---------------------------------------------------------------- 7. exit 0 means that it is true


def reweigh(folder: str, change: Callable[[Any], Any], file: str = "model.safetensors") -> Callable[[], None]:
    """Return a setup that changes the first tensor of a file of weights."""

    def setup() -> None:
        from safetensors.torch import load_file, save_file

        path = Path(folder, file)
        tensors = load_file(path)
        name = min(name for name in tensors if tensors[name].ndim == 2)
        changed = change(tensors[name])
        save_file(
            {**tensors, **({} if changed is None else {name: changed.contiguous()})}
            if changed is not None
            else {k: v for k, v in tensors.items() if k != name},
            path,
        )
        if Path(folder, "state.json").exists():
            sign(folder)

    return setup


def filled(value: float) -> Callable[[Any], Any]:
    def change(tensor: Any) -> Any:
        tensor[0, 0] = value
        return tensor

    return change


def truth() -> Iterator[Trial]:
    import torch

    def to(dtype: Any) -> Callable[[Any], Any]:
        return lambda tensor: torch.ones_like(tensor).to(dtype)

    changes: dict[str, Callable[[Any], Any]] = {
        "NaN": filled(float("nan")),
        "inf": filled(float("inf")),
        "-inf": filled(float("-inf")),
    }
    changes |= {str(d).removeprefix("torch."): to(d) for d in (torch.int64, torch.bool, torch.uint8, torch.complex64)}
    changes |= {
        "transposed": lambda t: t[:, :-1],
        "a scalar": lambda t: t[0, 0].clone(),
        "empty": lambda t: t[:0],
        "left out": lambda t: None,
    }
    lines = {
        "R": (
            "sample --ckpt X -n 3",
            "eval --ckpt X --on perplexity --input.text T",
            "convert X N",
            f"{TRAIN} --init X",
        ),
        "G": (
            "sample --ckpt X -n 3",
            "convert X N --dtype bf16",
            "convert X N --dtype fp16",
            "convert X N --to hf",
            "report X --output p.html",
        ),
        "H": ("convert H N --from hf",),
    }
    for folder, commands in lines.items():
        where = folder if folder == "H" else f"{folder}/best"
        for name, change in changes.items():
            for line in commands:
                fine = (0,) if "report" in line else (1, 2)
                yield Trial(
                    "truth",
                    f"{name} in {folder}: {line}",
                    fill(line, folder),
                    fine,
                    reweigh(where, change),
                    may=folder,
                    needs="" if "report" in line else r"(?i)weight|table|wte|wpe|tensor",
                )
        bare = fill(f"{TRAIN if folder == 'R' else GPT2 + ' --model.block-size 16 --steps 2'} --init odd.safetensors")
        for name, change in changes.items():
            copied = all_of(
                lambda w=where: shutil.copy(f"{w}/model.safetensors", "odd.safetensors"),
                lambda c=change: reweigh(".", c, "odd.safetensors")(),
            )
            if folder != "H":
                yield Trial("truth", f"{name} in a file of {folder}: --init", bare, (2,), copied, may=("odd",))
    for line in ("convert W N --dtype fp16", "convert G N --dtype fp16"):
        folder = line.split()[1]
        where = "W" if folder == "W" else "G/best"
        yield Trial("truth", f"70,000 as fp16: {line}", fill(line), (2,), reweigh(where, filled(70000.0)), may=folder)
        yield Trial(
            "truth",
            f"70,000 as fp32: {line}",
            fill(line.replace("fp16", "fp32")),
            (0,),
            reweigh(where, filled(70000.0)),
            may=folder,
        )
    changed = lambda: [write(str(p), bytes(len(p.read_bytes()))) for p in Path("cache/tokens").glob("*/train.bin")]  # noqa: E731
    yield Trial("truth", "a cached token file changed", fill(TRAIN), (0,), changed, needs="damaged|again")
    yield Trial(
        "truth",
        "more steps change the schedule",
        fill("train --out R --steps 4000 --print-config && train --out R --steps 40"),
        (0,),
        may="R",
        needs="learning rate|schedule",
    )
    constant = reweigh("R/best", lambda t: torch.zeros_like(t))
    yield Trial(
        "truth",
        "equal logits have the loss of chance",
        fill("eval --ckpt R --on perplexity --input.text T"),
        (0,),
        constant,
        may="R",
        needs=r"28\.00|29\.0|27\.00|4\.8",
    )
    yield Trial("truth", "nothing was written", fill("convert R N --to hf"), (1, 2))
    odd = lambda: write("T2", "the quick 日本\n" * 9)  # noqa: E731
    yield Trial(
        "truth",
        "--tokenizer.unknown is advised only where it helps",
        fill("sample --ckpt R -n 2 --prompt 日本"),
        never="tokenizer.unknown replace",
        setup=odd,
    )
    for line in (
        "eval --ckpt R --on perplexity --input.text T2",
        "eval --ckpt R --on perplexity --input.text T2 --limit 1",
    ):
        yield Trial("truth", f"characters that are not known: {line}", fill(line), (2,), odd)
    for option in (
        "model.n-layer 1 --model.n_layer 2",
        "steps 3 --max-seconds 3",
        "batch-size 3 --micro-batch-size 2",
    ):
        yield Trial(
            "truth",
            f"--{option}",
            fill(f"{GPT2} --{option} --out N"),
            (0, 2) if "n_layer" in option or "steps" in option else (2,),
        )


# ---------------------------------------------------------------- 8. pea

PEA = {
    "0 ** 0": "x = Value(0.0); y = 0 ** x; assert y.data == 1.0; y.backward(); assert x.grad == 0 or x.grad != x.grad or x.grad == float('-inf')",
    "0 ** 0.5": "x = Value(0.5); y = 0 ** x; y.backward(); assert y.data == 0 and x.grad == 0",
    "0 ** 2": "x = Value(2.0); y = 0 ** x; y.backward(); assert y.data == 0 and x.grad == 0",
    "numpy on the left": "import numpy as np; y = np.float64(2) * Value(3.0); assert isinstance(y, Value) and y.data == 6",
    "numpy on the right": "import numpy as np; y = Value(3.0) * np.float64(2); assert isinstance(y, Value) and y.data == 6",
    "numpy power": "import numpy as np; y = np.float64(2) ** Value(3.0); assert isinstance(y, Value) and y.data == 8",
    "numpy int": "import numpy as np; y = np.int64(2) - Value(3.0); assert isinstance(y, Value) and y.data == -1",
    "numpy float32": "import numpy as np; y = np.float32(2) / Value(4.0); assert isinstance(y, Value) and y.data == .5",
    "one output": "assert isinstance(MLP(3, [4, 4, 1])([1.0, 2.0, 3.0]), Value)",
    "two outputs": "assert len(MLP(3, [4, 2])([1.0, 2.0, 3.0])) == 2",
    "sum of many": "assert pea.sum([Value(0.1)] * 10).data == __import__('math').fsum([0.1] * 10)",
    "deep": "x = Value(1.0); y = x\nfor _ in range(20000): y = y + x\ny.backward(); assert x.grad == 20001",
    "wrong inputs": "try: MLP(3, [1])([1.0])\nexcept ValueError: pass\nelse: raise AssertionError",
    "no gradient is left": "x = Value(2.0); pea.check(lambda x: x * x, x) if hasattr(pea, 'check') else None; assert x.grad == 0",
    "text": "try: Value('3')\nexcept (TypeError, ValueError): pass\nelse: raise AssertionError",
    "overflow": "y = Value(800.0); y = y.tanh(); y.backward()",
}  # fmt: skip


def pea() -> Iterator[Trial]:
    for name, code in PEA.items():
        yield Trial("pea", name, ["python", f"import pea\nfrom pea import MLP, Value\n{code}\n"], (0,))


# ---------------------------------------------------------------- running

KINDS = {f.__name__: f for f in (files, strangers, work, bounds, bugs, blame, truth, pea)}


def trials(kinds: Iterable[str] = KINDS) -> list[Trial]:
    """Return all trials of these kinds."""
    return [trial for kind in kinds for trial in KINDS[kind]()]


def run_child(trial: Trial, world: Path) -> tuple[int | None, str, str]:
    """Run a trial's commands in a fork. Returns the exit code, None for one that did not end, and the output."""
    sys.stdout.flush()
    logs = [world.parent / f"{world.name}.{name}" for name in ("out", "err")]
    master, slave = os.openpty() if trial.stdout == "pty" else (-1, -1)
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.setsid()
            _child(trial, world, logs, slave)
        os._exit(99)
    if slave >= 0:
        os.close(slave)
    typed, end, status = b"", time.monotonic() + trial.seconds, None
    while status is None and time.monotonic() < end:
        if master >= 0 and select.select([master], [], [], 0.01)[0]:
            with suppress(OSError):
                typed += os.read(master, 65536)
        done, code = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else None
        if status is None and master < 0:
            time.sleep(0.005)
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if master >= 0:
        with suppress(OSError):
            while select.select([master], [], [], 0)[0] and (more := os.read(master, 65536)):
                typed += more
        os.close(master)
    out, err = (log.read_bytes().decode(errors="replace") for log in logs)
    return status, out + typed.decode(errors="replace").replace("\r\n", "\n"), err


def _child(trial: Trial, world: Path, logs: Sequence[Path], slave: int) -> None:
    """Prepare this process as the trial says and run its commands. Never returns."""
    os.chdir(world)
    for number, log in enumerate(logs, 1):
        os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if trial.stdout in ("full", "broken", "pty"):
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2({"full": os.open("/dev/full", os.O_WRONLY), "broken": writer, "pty": slave}[trial.stdout], 1)
    elif trial.stdout == "closed":
        os.close(1)
        sys.stdout = None  # as Python starts with a closed one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limit_memory(MEMORY)
    reports = bool({"runs", "report", "plugins", "--help", "nothing"} & {*trial.line})
    os.environ |= {"PEALM_CACHE": str(world / "cache"), "HOME": str(world), "http_proxy": "http://127.0.0.1:9"}
    os.environ |= {"https_proxy": "http://127.0.0.1:9", "PEALM_DISABLE_PLUGINS": "" if reports else "report"}
    os.environ |= trial.env
    if (world / "site").exists():
        sys.path.insert(0, str(world / "site"))
    trial.fault()
    code, commands = 0, " ".join(trial.line).split(" && ") if "&&" in trial.line else [trial.line]
    for command in commands:
        code = code or _main(command.split() if isinstance(command, str) else list(command))
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(code)


def _main(words: list[str]) -> int:
    try:
        if words[0] == "python":
            exec(words[1], {})
            return 0
        from pealm_core.cli import main

        main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 98


def snapshot() -> dict[str, Any]:
    """Return the content of every file below the current folder."""
    facts: dict[str, Any] = {}
    for folder, folders, names in os.walk("."):
        folders[:] = [name for name in folders if Path(folder, name) != Path("cache")]
        for name in [*names, *folders]:
            path = os.path.join(folder, name)[2:]  # noqa: PTH118 (names may be odd)
            mode = os.lstat(path).st_mode
            facts[path] = (
                os.readlink(path)
                if stat.S_ISLNK(mode)
                else Path(path).read_bytes()
                if stat.S_ISREG(mode)
                else stat.S_IFMT(mode)
            )
    return facts


def complaints(trial: Trial, base: Path, home: Path) -> tuple[list[str], str]:
    """Run a trial in a copy of the world. Returns what is not as it should be, and the output."""
    world = home / "trial"
    shutil.rmtree(world, ignore_errors=True)
    shutil.copytree(base, world, symlinks=True)
    os.chdir(world)
    try:
        trial.setup()
        before = snapshot()
        code, out, err = run_child(trial, world)
        now, text, wrong = snapshot(), f"{out}\n{err}", []
        if code not in trial.codes:
            wanted = " or ".join(map(str, trial.codes))
            wrong.append(
                f"did not end in {trial.seconds:.0f} s" if code is None else f"exit {code}, expected {wanted}"
            )
        for words in ("Traceback (most", "bug in pealm"):
            if words in text and not trial.debug:
                wrong.append(f"shows {words!r}")
        if trial.never and (match := re.search(trial.never, text)):
            wrong.append(f"shows {match[0]!r}")
        if code is not None and trial.needs and not re.search(trial.needs, text, re.DOTALL):
            wrong.append(f"does not show {trial.needs!r}")
        if trial.kind != "pea" and (
            match := re.search(r"(?m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]|^FORGED", text)
        ):
            wrong.append(f"prints {match[0]!r}")
        may = (trial.may,) if isinstance(trial.may, str) else trial.may
        for path, what in before.items():
            inside = any(path == m or path.startswith(f"{m}/") for m in may)
            if trial.keeps and any(path == k or path.startswith(f"{k}/") for k in trial.keeps):
                inside = False
            if not inside and now.get(path) != what:
                wrong.append(f"{path!r} {'was changed' if path in now else 'is gone'}")
        if code in trial.codes and not wrong:
            try:
                trial.after(out, err)
            except (AssertionError, OSError, ValueError, IndexError) as error:
                wrong.append(f"{type(error).__name__}: {error}")
        return wrong, text
    finally:
        os.chdir(home)


def storm(chosen: Sequence[Trial], show: bool = False) -> int:
    """Run trials, print what fails and a count by kind, and return the number that fail."""
    load()
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        home = Path(name).resolve()
        (home / "base").mkdir()
        os.chdir(home / "base")
        try:
            make_world()
            for trial in chosen:
                wrong, text = complaints(trial, home / "base", home)
                counts[trial.kind] += 1
                failed[trial.kind] += bool(wrong)
                if wrong or show:
                    line = " ".join(shlex.quote(word) for word in trial.line)
                    print(
                        f"{'FAIL' if wrong else 'ok'}  {trial.kind}: {trial.name!a:.110}\n      $ {line!a:.160}\n      {'; '.join(wrong)!a:.300}"
                    )
                    last = [part for part in text.splitlines() if part.strip()]
                    print(
                        "".join(f"      | {part!a:.220}\n" for part in (last if show else last[-1:])),
                        end="",
                        flush=True,
                    )
        finally:
            os.chdir("/")
    for kind in counts:
        print(f"{kind:<10} {counts[kind]:4} trials, {failed[kind]:3} fail")
    print(f"{sum(counts.values()):,} trials, {sum(failed.values())} fail, {time.monotonic() - started:.0f} s")
    return sum(failed.values())


def load() -> None:
    """Import all that commands import, once for all forks."""
    import importlib
    import pkgutil

    import jinja2  # noqa: F401

    import pealm_core
    from pealm_core.plugins.discovery import discover

    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    roots = [pealm_core, *(importlib.import_module(p.module.partition(".")[0]) for p in discover() if p.module)]
    for root in roots:
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if "__main__" not in found.name and "pytest_plugin" not in found.name and "worker" not in found.name:
                with suppress(ImportError):
                    importlib.import_module(found.name)


def main() -> None:
    """Run the trials that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be repeated")
    parser.add_argument("--only", metavar="NAME", help="only trials whose name matches; shows their output")
    parser.add_argument("-n", type=int, metavar="N", help="only a random sample of so many")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default 1)")
    args = parser.parse_args()
    chosen = trials(args.kind or KINDS)
    if args.only:
        chosen = [trial for trial in chosen if re.search(args.only, f"{trial.kind}: {trial.name}")]
    if args.n is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.n, len(chosen)))
    sys.exit(1 if storm(chosen, show=bool(args.only)) else 0)


if __name__ == "__main__":
    main()
