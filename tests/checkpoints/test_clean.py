"""`pealm clean` removes what pealm made and nobody uses, and nothing else."""

import fcntl
import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pealm_core.cli import clean as room
from pealm_core.contract.errors import PealmError

DAY = 86400


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a token cache of its own beside it."""
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def clean(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command: exit code, what it printed, what went wrong."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code, wrong = 0, ""
        try:
            room.clean.main([str(arg) for arg in args], prog_name="clean", standalone_mode=False)
        except PealmError as error:
            code, wrong = error.exit_code, str(error)
        return code, capsys.readouterr().out, wrong

    return run


Clean = Callable[..., tuple[int, str, str]]


def make_checkpoint(folder: Path, step: int, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"m" * size)
    files = {"model.safetensors": [size, hashlib.sha256(b"m" * size).hexdigest()]}
    facts = {"step": step, "seconds": 9.0, "files": files}
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps({**facts, "sha256": mark}, indent=1))
    return folder


def make_run(
    folder: Path,
    *,
    model: str = "m",
    at: tuple[int, ...] = (10, 20),
    steps: int = 20,
    days: float = 0,
    mark: bool = True,
) -> Path:
    """A run's folder as training leaves it."""
    folder.mkdir(parents=True)
    for name, text in ((".lock", "process 1 on h"), ("metrics.jsonl", "{}\n"), (".pealm", "pealm's")):
        if mark or name != ".pealm":
            (folder / name).write_text(text)
    (folder / "config.toml").write_text(f'[train]\nsteps = {steps}\n\n[model]\nname = "{model}"\n')
    for step in at:
        make_checkpoint(folder / "checkpoints" / f"step-{step:08d}", step)
    if at:
        make_checkpoint(folder / "best", at[-1])
    return age(folder, days)


def make_tokens(cache: Path, *names: str, days: float = 0) -> Path:
    home = cache / "tokens"
    home.mkdir(parents=True)
    (home / ".pealm").write_text("pealm's")
    for name in names:
        (home / name).mkdir()
        (home / name / "train.bin").write_bytes(b"t" * 500)
        age(home / name, days)
    return home


def age(folder: Path, days: float) -> Path:
    when = time.time() - days * DAY
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (when, when), follow_symlinks=False)
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


A, B = "a" * 32, "b" * 32


def test_yes_removes_runs_tokens_and_leftovers(clean: Clean, here: Path) -> None:
    make_run(here / "runs" / "m" / "one")
    make_run(here / "runs" / "two")
    tokens = make_tokens(here.parent / "cache", A, B)
    code, out, _ = clean("--yes")
    assert code == 0 and "removed: 2 runs, 2 tokenized texts (" in out
    assert tree(here / "runs") == ["m"] and tree(tokens) == [".pealm"]
    assert clean("--yes") == (0, "nothing to remove\n", "")


def test_the_list_says_model_age_size_step_and_state(clean: Clean, here: Path) -> None:
    make_run(here / "runs" / "b", model="gpt2", at=(500, 1500), steps=20000, days=3)
    make_run(here / "runs" / "a", model="char", days=100)
    make_run(here / "runs" / "c", model="gpt2", at=())
    make_run(here / "runs" / "d", model="gpt2", days=30)
    make_tokens(here.parent / "cache", A, days=1.1)
    before = tree(here.parent)
    code, out, _ = clean("--dry-run")
    assert code == 0 and tree(here.parent) == before
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["char"] and rows[2][:3] == ["runs/a", "100", "days"] and rows[2][-2:] == ["20", "finished"]
    assert rows[3] == ["gpt2"] and [row[0] for row in rows[4:7]] == ["runs/d", "runs/b", "runs/c"]  # the oldest first
    size = sum(path.stat().st_size for path in (here / "runs" / "b").rglob("*") if path.is_file())
    assert rows[5] == ["runs/b", "3", "days", f"{size / 1000:.1f}", "kB", "1,500", "7%", "done"]
    assert rows[6][1] == "now" and rows[6][-2:] == ["no", "checkpoint"]
    assert ["1", "text", "26", "hours", "500", "B"] in rows
    assert "4 runs, 1 tokenized text (" in out and "nothing was removed" in out
    assert len({line.index("days") + 4 for line in out.splitlines() if "days" in line}) == 1  # aligned


def test_a_run_bounded_by_time_is_finished_when_its_time_is_used_up(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    for limit, state in ((9.01, "finished"), (18.0, "50% done")):
        (run / "config.toml").write_text(f'[train]\nmax-seconds = {limit}\n[model]\nname = "m"\n')
        assert state in clean("--dry-run")[1]


@pytest.mark.parametrize(
    "text", ["", "train = 3", "[model]\nname = 3", "\0", '[train]\nsteps = "x"\n[model]\nname = "m"']
)
def test_a_run_whose_config_makes_no_sense_can_go_too(clean: Clean, here: Path, text: str) -> None:
    (make_run(here / "runs" / "r") / "config.toml").write_text(text)
    assert clean("--yes")[0] == 0 and tree(here / "runs") == []


def test_what_has_no_mark_is_never_touched(clean: Clean, here: Path) -> None:
    make_run(here / "runs" / "mine", mark=False)
    (here / "runs" / "notes").mkdir()
    tokens = make_tokens(here.parent / "cache", A)
    (tokens / ".pealm").unlink()
    (here.parent / "cache" / "tinyshakespeare.txt").write_text("To be")
    before = tree(here.parent)
    code, out, _ = clean("--yes")
    assert code == 0 and tree(here.parent) == before
    assert f"not touched, because they have no .pealm file: runs/mine, {tokens}" in out and "nothing to remove" in out


def test_only_texts_go_from_the_token_cache(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", A, "backup")
    (tokens / "notes.txt").write_text("mine")
    (tokens / B).symlink_to(tokens / "backup")
    clean("--yes")
    assert tree(tokens) == [".pealm", "backup", "backup/train.bin", B, "notes.txt"]


def test_links_are_unlinked_and_not_followed(clean: Clean, here: Path) -> None:
    outside = here.parent / "outside"
    make_checkpoint(outside / "step-00000030", 30)
    (outside / "notes.txt").write_text("mine")
    before = tree(outside)
    run = make_run(here / "runs" / "r")
    (run / "more").symlink_to(outside)
    (run / "notes.txt").symlink_to(outside / "notes.txt")
    (run / "checkpoints" / "step-00000030").symlink_to(outside / "step-00000030")
    (run / "checkpoints" / ".step-00000040.1.tmp").symlink_to(outside)
    assert clean("--yes", "--keep-best")[0] == 0
    assert tree(run / "checkpoints") == [] and (run / "best" / "state.json").exists() and tree(outside) == before
    assert clean("--yes")[0] == 0 and not run.exists() and tree(outside) == before


def test_a_checkpoints_folder_that_is_a_link_is_not_followed(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "checkpoints").rename(here.parent / "elsewhere")
    (here.parent / "elsewhere" / ".step-00000040.1.tmp").mkdir()
    (run / "checkpoints").symlink_to(here.parent / "elsewhere")
    before = tree(here.parent / "elsewhere")
    assert "nothing to remove" in clean("--yes", "--keep-best")[1]
    clean("--yes")
    assert not run.exists() and tree(here.parent / "elsewhere") == before


def test_runs_behind_links_are_neither_listed_nor_touched(clean: Clean, here: Path) -> None:
    run = make_run(here.parent / "elsewhere" / "m" / "r")
    (here / "runs").mkdir()
    (here / "runs" / "newest").symlink_to(run)
    (here / "runs" / "m").symlink_to(run.parent)
    linked = make_tokens(here.parent / "big", A)
    (here.parent / "cache").mkdir()
    (here.parent / "cache" / "tokens").symlink_to(linked)
    before = tree(here.parent)
    assert clean("--yes") == (0, "nothing to remove\n", "") and tree(here.parent) == before
    code, _, wrong = clean("runs/newest", "--yes")
    assert code == 2 and f"is a link, which `pealm clean` does not follow; name the run itself: {run}" in wrong
    assert tree(here.parent) == before


def test_a_link_to_a_mark_is_no_mark(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r", mark=False)
    (here / "mark").write_text("")
    (run / ".pealm").symlink_to(here / "mark")
    assert "nothing to remove" in clean("--yes")[1] and run.exists()


def test_the_named_folder_may_be_a_run_or_a_link_to_a_folder_of_runs(clean: Clean, here: Path) -> None:
    make_run(here / "disk" / "one")
    two = make_run(here / "disk" / "two")
    clean(two, "--yes")
    assert tree(here)[:2] == ["disk", "disk/one"] and not two.exists()
    (here / "runs").symlink_to(here / "disk")
    clean("--yes")
    assert tree(here) == ["disk", "runs"]


HOLD = "import fcntl, sys\nf = open(sys.argv[1], 'a+')\nfcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"


@pytest.mark.parametrize("keep", [(), ("--keep-best",)])
def test_a_run_that_another_process_holds_is_listed_and_stays(
    clean: Clean, here: Path, keep: tuple[str, ...]
) -> None:
    run = make_run(here / "runs" / "r")
    make_checkpoint(run / "checkpoints" / ".step-00000030.7.tmp", 30)  # it may be writing this one
    before = tree(here)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        code, out, _ = clean("--yes", *keep)
        assert code == 0 and "in use" in out and "nothing to remove" in out and tree(here) == before
        holder.communicate("")
    assert clean("--yes", *keep)[0] == 0 and tree(here) != before


def answer(monkeypatch: pytest.MonkeyPatch, answers: Callable[[str], bool]) -> list[str]:
    """Stand in for the user at a terminal."""
    asked: list[str] = []

    def confirm(text: str, **_: Any) -> bool:
        asked.append(text)
        return answers(text)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", confirm)
    return asked


def test_a_run_that_is_taken_while_the_question_stands_stays(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_run(here / "runs" / "one"), make_run(here / "runs" / "two")
    before = tree(one)
    with (one / ".lock").open("a+") as lock:

        def taken(text: str) -> bool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return True

        answer(monkeypatch, taken)
        code, out, wrong = clean()
    assert code == 1 and wrong == "runs/one: is in use by now; it stays" and "removed: 1 run (" in out
    assert tree(one) == before and not two.exists()


def written(run: Path) -> None:
    os.utime(run / "metrics.jsonl", (time.time() + 5, time.time() + 5))


def swapped_for_a_link(run: Path) -> None:
    run.rename(run.parent.parent / "moved")
    run.symlink_to(run.parent.parent / "moved")


def parent_swapped_for_a_link(run: Path) -> None:
    run.parent.rename(run.parent.parent / "moved")
    run.parent.symlink_to(run.parent.parent / "moved")


def removed(run: Path) -> None:
    shutil.rmtree(run)


def unmarked(run: Path) -> None:
    (run / ".pealm").unlink()


def a_run_began_inside(run: Path) -> None:
    age(make_run(run / "again"), -0.001)


@pytest.mark.parametrize(
    "change", [written, removed, swapped_for_a_link, parent_swapped_for_a_link, unmarked, a_run_began_inside]
)
def test_a_run_that_changed_since_it_was_listed_stays(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    run = make_run(here / "runs" / "r", days=1)
    after: list[list[str]] = []

    def changed(text: str) -> bool:
        change(run)
        after.append(tree(here))
        return True

    answer(monkeypatch, changed)
    code, out, wrong = clean()
    assert code == 1 and wrong.startswith("runs/r: ") and wrong.endswith("it stays") and len(wrong.splitlines()) == 1
    assert [tree(here)] == after and "nothing was removed" in out


def test_a_run_that_takes_the_place_of_a_listed_one_stays(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = make_run(here / "runs" / "r"), fcntl.flock

    def flock(handle: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:  # another `pealm clean` was faster, and a new run began
            shutil.rmtree(run)
            make_run(run, days=1)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert clean("--yes")[::2] == (1, "runs/r: is not what was listed; it stays") and (run / "best").exists()


def test_what_is_no_leftover_any_more_stays(clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(here / "runs" / "r")
    make_checkpoint(run / "best.old", 10)
    answer(monkeypatch, lambda text: "leftover" in text and shutil.rmtree(run / "best") is None)  # type: ignore[func-returns-value]
    assert clean()[::2] == (1, "runs/r/best.old: is not what was listed; it stays")
    assert (run / "best.old" / "state.json").exists()


@pytest.mark.parametrize("link", [False, True])
def test_tokens_that_are_not_pealms_any_more_stay(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    tokens = make_tokens(here.parent / "cache", A)

    def changed(text: str) -> bool:
        if link:
            tokens.rename(here.parent / "moved")
            tokens.symlink_to(here.parent / "moved")
        else:
            (tokens / ".pealm").unlink()
        return True

    answer(monkeypatch, changed)
    assert (
        clean()[::2] == (1, f"{tokens / A}: is not what was listed; it stays") and (tokens / A / "train.bin").exists()
    )


def test_a_run_that_holds_another_one_stays_until_that_is_gone(clean: Clean, here: Path) -> None:
    outer = make_run(here / "runs" / "r")
    inner = make_run(outer / "again")
    code, out, _ = clean("--yes")
    assert code == 0 and "holds a run" in out and outer.exists() and not inner.exists()
    clean("--yes")
    assert not outer.exists()


def test_a_run_in_the_working_folder_stays(clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(here / "project")
    (run / "src").mkdir()
    before = tree(here)
    for place in (run, run / "src"):
        monkeypatch.chdir(place)
        code, out, _ = clean(run, "--yes")
        assert code == 0 and "you are in it" in out and "nothing to remove" in out and tree(here) == before


def test_keep_best_removes_only_step_checkpoints(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    without = make_run(here / "runs" / "w")
    shutil.rmtree(without / "best")
    make_run(here / "runs" / "e", at=())
    kept = tree(without)
    code, out, _ = clean("--yes", "--keep-best", "--only", "runs")
    assert code == 0 and "removed: the step checkpoints of 1 run (2." in out
    assert tree(run) == sorted(
        [
            ".lock",
            ".pealm",
            "best",
            "best/model.safetensors",
            "best/state.json",
            "checkpoints",
            "config.toml",
            "metrics.jsonl",
        ]
    )
    assert "no best/" in out and tree(without) == kept and "runs/e" not in out
    assert "best/ only" in clean("--dry-run")[1]


def test_keep_best_keeps_all_where_best_is_damaged_or_a_link(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "best" / "model.safetensors").write_bytes(b"x" * 1000)
    linked = make_run(here / "runs" / "l")
    shutil.rmtree(linked / "best")
    (linked / "best").symlink_to(linked / "checkpoints" / "step-00000020")
    before = tree(here)
    code, _, wrong = clean("--yes", "--keep-best")
    assert code == 1 and tree(here) == before
    assert wrong.startswith("runs/r: its step checkpoints stay") and len(wrong.splitlines()) == 1


def test_leftovers_go_also_where_the_run_stays(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    stays = tree(run)
    debris = (
        ".best.7.tmp",
        "best.old",
        *(f"checkpoints/{x}" for x in (".step-00000030.7.tmp", "step-00000020.old", "step-00000040.damaged")),
    )
    for name in debris:
        make_checkpoint(run / name, 30)
    (run / ".config.toml.tmp").write_text("")
    code, out, _ = clean("--yes", "--only", "leftovers")
    assert code == 0 and "removed: 6 leftovers (" in out and tree(run) == stays
    assert all(name in out for name in debris)


def test_an_old_checkpoint_without_its_successor_is_no_leftover(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "best").rename(run / "best.old")
    (run / "checkpoints" / "step-00000020").rename(run / "checkpoints" / "step-00000020.old")
    assert clean("--yes", "--only", "leftovers")[1] == "nothing to remove\n"


def test_tokenizing_that_may_be_going_on_is_left_alone(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", "tokenizing-live", "tokenizing-dead", f".{A}.7.tmp")
    age(tokens / "tokenizing-dead", 0.1)
    age(tokens / f".{A}.7.tmp", 0.1)
    code, out, _ = clean("--yes", "--only", "leftovers")
    assert (
        code == 0
        and "2 leftovers" in out
        and tree(tokens) == [".pealm", "tokenizing-live", "tokenizing-live/train.bin"]
    )


def test_model_age_and_kind_choose(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", A, days=5)
    for name, model, days in (("a", "m", 1.0), ("b", "m", 5.0), ("c", "n", 5.0)):
        make_checkpoint(make_run(here / "runs" / name, model=model, days=days) / "best.old", 1)
        age(here / "runs" / name, days)
    assert clean("--yes", "--model", "m", "--older-than", "2")[0] == 0
    assert sorted(p.name for p in (here / "runs").iterdir()) == ["a", "c"] and (tokens / A).exists()
    assert (here / "runs" / "a" / "best.old").exists()
    clean("--yes", "--only", "tokens")
    assert tree(tokens) == [".pealm"] and sorted(p.name for p in (here / "runs").iterdir()) == ["a", "c"]
    clean("--yes", "--only", "runs", "--older-than", "2")
    assert [p.name for p in (here / "runs").iterdir()] == ["a"]
    assert clean("--yes", "--older-than", "nan")[1] == "nothing to remove\n"


def test_hard_links_count_once_and_links_as_nothing(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r", at=())
    for path in run.iterdir():
        path.write_bytes(b"")
    (run / "big").write_bytes(b"x" * 5000)
    os.link(run / "big", run / "again")
    other = make_run(here / "runs" / "s", at=())
    os.link(run / "big", other / "again")
    (here.parent / "huge").write_bytes(b"x" * 100_000)
    (run / "link").symlink_to(here.parent / "huge")
    size = 5000 + sum(path.stat().st_size for path in other.iterdir() if path.name != "again")
    assert f"2 runs ({size / 1000:.1f} kB)" in clean("--dry-run")[1]


def test_what_can_not_be_removed_is_one_line_and_the_rest_goes(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = make_run(here / "runs" / "a"), make_run(here / "runs" / "b")
    tokens = make_tokens(here.parent / "cache", A)
    real = shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if path.name == "best" and path.parent.name.startswith(".a."):
            raise PermissionError(13, "Permission denied", str(path / "model.safetensors"))
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    code, out, wrong = clean("--yes")
    rest = here / "runs" / f".a.{os.getpid()}.tmp"
    assert code == 1 and wrong == f"runs/a: Permission denied ({rest / 'best' / 'model.safetensors'})"
    assert "removed: 1 run, 1 tokenized text (" in out
    assert not stuck.exists() and not other.exists() and tree(tokens) == [".pealm"]
    monkeypatch.undo()  # what is left does not look like a run, and the next time it goes
    monkeypatch.chdir(here)
    monkeypatch.setenv("PEALM_CACHE", str(here.parent / "cache"))
    assert (rest / ".pealm").exists() and (rest / "best" / "state.json").exists()
    code, out, _ = clean("--yes")
    assert code == 0 and "half removed" in out and "removed: 1 leftover (" in out and tree(here / "runs") == []


def test_a_run_that_can_not_be_renamed_stays_whole(clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(here / "runs" / "r")
    before = tree(run)

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    assert clean("--yes")[::2] == (1, "runs/r: Permission denied") and tree(run) == before


KILLED = """
import os, pathlib, signal, sys
from pealm_core.cli.clean import clean
listed = pathlib.Path.iterdir
pathlib.Path.iterdir = lambda self: iter(sorted(listed(self)))  # lock and mark come first, which is the worst
left = int(sys.argv[1])
def kill(event, args):
    global left
    if event in ("os.remove", "os.rmdir", "os.rename"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
clean.main(sys.argv[2:], standalone_mode=False)
"""


@pytest.mark.parametrize("keep", [(), ("--keep-best",)])
def test_a_kill_at_any_instant_leaves_nothing_half(clean: Clean, here: Path, keep: tuple[str, ...]) -> None:
    killed = 0
    while True:
        run = make_run(here / "runs" / "r")
        tokens = make_tokens(here.parent / "cache", A)
        whole = {path: tree(path) for path in (run / "checkpoints").iterdir()} | {tokens / A: ["train.bin"]}
        whole |= {run / "best": tree(run / "best")} if keep else {run: tree(run)}
        process = subprocess.run([sys.executable, "-c", KILLED, str(killed), "--yes", *keep])
        assert process.returncode in (0, -9)
        assert not keep or tree(run / "best") == whole[run / "best"]
        for path, names in whole.items():
            assert not path.exists() or tree(path) == names
        for path in (here.parent / "cache").rglob("*"):
            age(path, 1)
        assert clean("--yes")[0] == 0  # the next time takes what is left, but for the empty folder of a removed mark
        rest = list((here / "runs").iterdir())
        assert len(rest) <= 1 and all(path.name.endswith(".tmp") and not list(path.iterdir()) for path in rest)
        assert tree(tokens) == [".pealm"]
        if process.returncode == 0:
            break
        killed += 1
        shutil.rmtree(here / "runs")
        shutil.rmtree(tokens)
    assert killed > 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    before = tree(run)
    (here / "runs").chmod(0o555)
    try:
        assert clean("--yes")[::2] == (1, "runs/r: Permission denied") and tree(run) == before
    finally:
        (here / "runs").chmod(0o755)


def test_a_lock_that_is_a_link_is_not_followed(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(here.parent / "made-by-following")
    code, _, wrong = clean("--yes")
    assert (
        code == 1
        and wrong.startswith("runs/r: ")
        and run.exists()
        and not (here.parent / "made-by-following").exists()
    )


def test_a_run_that_ended_before_it_began_goes(clean: Clean, here: Path) -> None:
    run = here / "runs" / "r"
    run.mkdir(parents=True)
    (run / ".pealm").write_text("")
    age(run, 1)
    assert clean("--yes")[0] == 0 and not run.exists()


def test_a_token_cache_below_the_folder_is_no_run(clean: Clean, here: Path) -> None:
    home = make_tokens(here / "runs" / "cache", A)
    assert clean("--yes")[1] == "nothing to remove\n" and (home / A).exists()


def test_each_kind_is_asked_for_and_no_answer_is_acted_on_before_the_last(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(here / "runs" / "r")
    make_checkpoint(run / "best.old", 1)
    tokens = make_tokens(here.parent / "cache", A)
    before = tree(here.parent)
    asked = answer(monkeypatch, lambda text: tree(here.parent) == before and "text" not in text)
    code, out, _ = clean()
    assert code == 0 and not run.exists() and (tokens / A).exists()
    assert [text.rsplit(" (")[0] for text in asked] == [
        "Remove 1 run",
        "Remove 1 tokenized text",
    ]  # its leftover goes with it
    assert "removed: 1 run, 1 leftover (" in out

    make_checkpoint(make_run(here / "runs" / "r") / "best.old", 1)
    asked = answer(monkeypatch, lambda text: "leftover" in text)
    assert "removed: 1 leftover (" in clean()[1] and run.exists() and len(asked) == 3
    answer(monkeypatch, lambda text: False)
    assert clean()[::2] == (0, "") and run.exists()


def test_without_a_terminal_it_asks_for_yes(clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(here / "runs" / "r")
    before = tree(here)
    for stdin in (open(os.devnull), None):  # noqa: PTH123, SIM115
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, wrong = clean()
        assert (
            code == 2
            and "--yes" in wrong
            and len(wrong.splitlines()) == 1
            and "runs/r" in out
            and tree(here) == before
        )
        if stdin:
            stdin.close()


@pytest.mark.parametrize(("keys", "code", "gone"), [(b"y\n", 0, True), (b"\n", 0, False), (b"\x04", 130, False)])
def test_a_terminal_is_asked(here: Path, keys: bytes, code: int, gone: bool) -> None:
    run = make_run(here / "runs" / "r")
    program = (
        "from pealm_core import cli\ncli.COMMANDS['clean'] = ('pealm_core.cli.clean:clean', '')\ncli.main(['clean'])"
    )
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
        )
        os.write(ours, keys)
        out = process.communicate()[0].decode()
        assert process.returncode == code
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Remove 1 run (" in out and run.exists() is not gone


def test_a_folder_that_is_none_is_the_users_mistake(clean: Clean, here: Path) -> None:
    (here / "file").write_text("")
    for name in ("nowhere", "file"):
        assert clean(name, "--yes")[::2] == (
            2,
            f"{name}: no such folder; `pealm clean` takes a run or a folder of runs",
        )
    assert clean("--yes") == (0, "nothing to remove\n", "")
    with pytest.raises(click.UsageError):
        clean("--older-than", "-1")


def test_it_loads_nothing_heavy(here: Path) -> None:
    code = "import sys\nimport pealm_core.cli.clean\nassert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
