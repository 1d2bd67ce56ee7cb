"""`pealm clean` removes what pealm made and nobody uses, and nothing else."""

import errno
import fcntl
import hashlib
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pealm_clean import command
from pealm_core import PealmError
from pealm_core.checkpoints import folder as checkpoint

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
            command.clean.main([str(arg) for arg in args], prog_name="clean", standalone_mode=False)
        except PealmError as error:
            code, wrong = error.exit_code, str(error)
        return code, capsys.readouterr().out, wrong

    return run


Clean = Callable[..., tuple[int, str, str]]


def make_checkpoint(folder: Path, step: int, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"m" * size)
    files = {"model.safetensors": [size, hashlib.sha256(b"m" * size).hexdigest()]}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "words.txt").write_text("a b")
    files["tokenizer/words.txt"] = [3, hashlib.sha256(b"a b").hexdigest()]
    (folder / "state.json").write_text(json.dumps({"step": step, "files": files}, indent=1))
    return folder


def make_run(
    folder: Path,
    *,
    model: str = "m",
    at: tuple[int, ...] = (10, 20),
    status: str = "done",
    days: float = 0,
    mark: bool = True,
) -> Path:
    """A run's folder as training leaves it."""
    folder.mkdir(parents=True)
    facts = json.dumps({"status": status})
    for name, text in ((".lock", "process 1"), ("metrics.jsonl", "{}\n"), ("run.json", facts), (".pealm", "pealm's")):
        if mark or name != ".pealm":
            (folder / name).write_text(text)
    (folder / "config.toml").write_text(f'[model]\nname = "{model}"\n')
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


def test_the_list_says_date_size_and_state(clean: Clean, here: Path) -> None:
    make_run(here / "runs" / "b", days=3)
    make_run(here / "runs" / "a", days=100, status="running")
    make_run(here / "runs" / "c", at=())
    (here / "runs" / "c" / "metrics.jsonl").write_bytes(b"x" * 2_000_000)
    make_tokens(here.parent / "cache", A, days=1.1)
    before = tree(here.parent)
    code, out, _ = clean("--dry-run")
    assert code == 0 and tree(here.parent) == before
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[1:4]] == ["runs/a", "runs/b", "runs/c"]  # the oldest first
    assert rows[1][-1] == "killed" and rows[2][-1] == "done" and rows[3][-3:] == ["2.0", "MB", "done"]
    assert rows[1][1] == time.strftime("%Y-%m-%d", time.localtime(time.time() - 100 * DAY))
    assert rows[4][0].endswith(A) and rows[4][-4:] == ["0.0", "MB", "tokenized", "text"]
    assert "3 runs, 1 tokenized text (2.0 MB) would be removed; nothing was" in out


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
    assert out == "nothing to remove\n"


def test_only_texts_go_from_the_token_cache(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", A, "backup")
    (tokens / "notes.txt").write_text("mine")
    (tokens / B).symlink_to(tokens / "backup")
    clean("--yes")
    assert tree(tokens) == [".pealm", "backup", "backup/train.bin", B, "notes.txt"]


def files(folder: Path) -> list[str]:
    return [name for name in tree(folder) if not (folder / name).is_dir()]


def test_only_what_pealm_wrote_goes(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    mine = ["thesis.txt", ".notes.tmp", ".best.notes.tmp", "best.old/model.safetensors", "src/config.toml"]
    mine += ["best/notes.txt", "checkpoints/step-00000020/tokenizer/mine.json", "checkpoints/step-00000020.old/x"]
    mine += ["checkpoints/step-00000030.damaged/x", "evals/notes.json", "evals/my results.txt"]
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    assert clean("--yes")[::2] == (0, "") and files(run) == sorted(mine)
    assert clean("--yes")[1] == "nothing to remove\n" and files(run) == sorted(mine)


def test_results_of_evaluations_go_with_their_run(clean: Clean, here: Path) -> None:
    run, other = make_run(here / "runs" / "r"), make_run(here / "runs" / "other")
    (run / "evals").mkdir()
    for name in ("hellaswag-500.json", "my-eval-20-limit-3.json", f".x-1.json.{'a' * 12}.tmp"):
        (run / "evals" / name).write_text("{}")
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "hellaswag-500.json").write_text("{}")
    (other / "evals").symlink_to(here / "elsewhere")
    assert clean("--keep-best", "--yes")[0] == 0 and len(tree(run / "evals")) == 3
    assert clean("--yes")[0] == 0 and not run.exists() and tree(other) == ["evals"]
    assert tree(here / "elsewhere") == ["hellaswag-500.json"]


@pytest.mark.parametrize("name", ["../../../notes.txt", "notes.txt", "/ABSOLUTE", "tokenizer/../notes.txt", ""])
def test_a_checkpoint_can_not_name_what_is_not_its_own(clean: Clean, here: Path, name: str) -> None:
    run = make_run(here / "runs" / "r")
    step = run / "checkpoints" / "step-00000020"
    notes = [step / "notes.txt", run / "notes.txt", here / "notes.txt"]
    for path in notes:
        path.write_text("mine")
    state = json.loads((step / "state.json").read_text())
    state["files"][name.replace("/ABSOLUTE", str(here / "notes.txt"))] = [4, ""]
    (step / "state.json").write_text(json.dumps(state))
    assert clean("--yes")[0] == 0 and all(path.exists() for path in notes)


def test_links_are_not_followed_and_stay(clean: Clean, here: Path) -> None:
    outside = here.parent / "outside"
    make_checkpoint(outside / "step-00000030", 30)
    (outside / "notes.txt").write_text("mine")
    before = tree(outside)
    run = make_run(here / "runs" / "r")
    step = run / "checkpoints" / "step-00000020"
    links = {run / "more": outside, run / "samples.jsonl": outside / "notes.txt"}
    links |= {run / "checkpoints" / "step-00000030": outside / "step-00000030"}
    links |= {run / "checkpoints" / ".step-00000040.1.tmp": outside, step / "optimizer.safetensors": outside}
    shutil.rmtree(step / "tokenizer")
    links |= {step / "tokenizer": outside}
    for link, target in links.items():
        link.symlink_to(target)
    (outside / "words.txt").write_text("a b")  # as the state.json of step 20 lists it
    before = tree(outside)
    assert clean("--yes", "--keep-best")[0] == 0 and (run / "best" / "state.json").exists()
    assert clean("--yes")[0] == 0 and tree(outside) == before
    assert sorted(path for path in run.rglob("*") if not path.is_dir() or path.is_symlink()) == sorted(links)


def test_a_checkpoints_folder_that_is_a_link_is_not_followed(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "checkpoints").rename(here.parent / "elsewhere")
    for name in (".step-00000040.1.tmp", ".step-00000050.7.damaged"):
        make_checkpoint(here.parent / "elsewhere" / name, 1)
    (run / "checkpoints").symlink_to(here.parent / "elsewhere")
    before = tree(here.parent / "elsewhere")
    assert "nothing to remove" in clean("--yes", "--keep-best")[1]
    clean("--yes")
    assert tree(run) == ["checkpoints"] and tree(here.parent / "elsewhere") == before


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


@pytest.mark.parametrize("change", [written, removed, swapped_for_a_link, parent_swapped_for_a_link, unmarked])
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
    assert clean("--yes")[::2] == (1, "runs/r: has changed since it was listed; it stays") and (run / "best").exists()


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
        clean()[::2] == (1, f"{tokens / A}: has changed since it was listed; it stays")
        and (tokens / A / "train.bin").exists()
    )


def test_a_run_inside_another_one_is_a_run_of_its_own(clean: Clean, here: Path) -> None:
    outer = make_run(here / "runs" / "r", days=9)
    inner = make_run(outer / "again")
    whole = tree(inner)
    assert clean("--yes", "--older-than", "2")[0] == 0 and tree(inner) == whole and not (outer / "best").exists()
    clean("--yes")
    assert not inner.exists()


def test_the_working_folder_stays(clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(here / "project")
    (run / "src").mkdir()
    (run / "src" / "main.py").write_text("")
    monkeypatch.chdir(run)
    assert clean(run, "--yes")[0] == 0 and tree(run) == ["src", "src/main.py"]
    make_run(here / "project" / "r")
    monkeypatch.chdir(run / "r")
    assert clean(".", "--yes")[0] == 0 and tree(run / "r") == []


def test_keep_best_removes_only_step_checkpoints(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    without = make_run(here / "runs" / "w")
    shutil.rmtree(without / "best")
    make_run(here / "runs" / "e", at=())
    kept = tree(without)
    tokens = make_tokens(here.parent / "cache", A)
    code, out, _ = clean("--yes", "--keep-best")
    assert code == 0 and "removed: 1 checkpoints folder (0.0 MB)" in out and (tokens / A).exists()
    assert json.loads((run / "run.json").read_text()) == {"status": "done", "cleaned": True}
    rest = [".lock", ".pealm", "best/model.safetensors", "best/state.json", "best/tokenizer/words.txt", "config.toml"]
    assert files(run) == [*rest, "metrics.jsonl", "run.json"] and not (run / "checkpoints").exists()
    assert "no complete best/" in out and tree(without) == kept and "runs/e" not in out


def test_keep_best_keeps_all_where_best_is_damaged_or_a_link(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "best" / "model.safetensors").write_bytes(b"x" * 1000)
    linked = make_run(here / "runs" / "l")
    shutil.rmtree(linked / "best")
    (linked / "best").symlink_to(linked / "checkpoints" / "step-00000020")
    before = tree(here)
    code, out, _ = clean("--yes", "--keep-best")
    assert code == 0 and tree(here) == before and out.count("no complete best/") == 2


def test_leftovers_go_with_the_step_checkpoints(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    rest = [name for name in tree(run) if not name.startswith("checkpoints")]
    for name in (
        ".best.7.tmp",
        ".best.7.old",
        "checkpoints/.step-00000030.7a.tmp",
        "checkpoints/.step-00000020.7.old",
    ):
        make_checkpoint(run / name, 30)
    make_checkpoint(run / "checkpoints" / ".step-00000040.7.damaged", 30)
    (run / ".config.toml.0a.tmp").write_text("")
    assert clean("--yes", "--keep-best")[0] == 0 and tree(run) == rest


def test_a_replaced_best_without_its_successor_stays(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r")
    (run / "best").rename(run / ".best.7.old")
    before = tree(run)
    assert "nothing to remove" in clean("--yes", "--keep-best")[1] and tree(run) == before
    assert clean("--yes")[0] == 0 and not run.exists()


def test_tokenizing_that_may_be_going_on_is_left_alone(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", "tokenizing-live", "tokenizing-dead", f".{A}.7.tmp")
    age(tokens / "tokenizing-dead", 0.1)
    age(tokens / f".{A}.7.tmp", 0.1)
    assert clean("--yes")[0] == 0
    assert tree(tokens) == [".pealm", "tokenizing-live", "tokenizing-live/train.bin"]


def test_age_chooses(clean: Clean, here: Path) -> None:
    tokens = make_tokens(here.parent / "cache", A, days=5)
    for name, days in (("a", 1.0), ("b", 5.0)):
        make_run(here / "runs" / name, days=days)
    assert clean("--yes", "--older-than", "9")[1] == "nothing to remove\n"
    assert clean("--yes", "--older-than", "nan")[1] == "nothing to remove\n"
    assert clean("--yes", "--older-than", "2")[0] == 0
    assert tree(tokens) == [".pealm"] and [p.name for p in (here / "runs").iterdir()] == ["a"]


def test_hard_links_count_once(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r", at=())
    (run / "loss.png").write_bytes(b"x" * 5_000_000)
    os.link(run / "loss.png", run / "samples.jsonl")
    assert "1 run (5.0 MB)" in clean("--dry-run")[1]


def test_what_best_shares_with_a_step_is_not_freed(clean: Clean, here: Path) -> None:
    run = make_run(here / "runs" / "r", at=(20,))
    step, best = (make_checkpoint(run / name / "x", 20, 3_000_000) for name in ("1", "2"))
    shutil.rmtree(run / "best")
    best.rename(run / "best")
    step.rename(run / "checkpoints" / "step-00000030")
    assert "1 checkpoints folder (3.0 MB)" in clean("--dry-run", "--keep-best")[1]
    (run / "checkpoints" / "step-00000030" / "model.safetensors").unlink()
    os.link(run / "best" / "model.safetensors", run / "checkpoints" / "step-00000030" / "model.safetensors")
    assert "1 checkpoints folder (0.0 MB)" in clean("--yes", "--keep-best")[1]
    assert (run / "best" / "model.safetensors").stat().st_size == 3_000_000


def test_what_can_not_be_removed_is_one_line_and_the_rest_goes(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = make_run(here / "runs" / "a"), make_run(here / "runs" / "b")
    tokens = make_tokens(here.parent / "cache", A)
    real = Path.unlink

    def unlink(path: Path, **options: Any) -> None:
        if path == stuck / "best" / "model.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    code, out, wrong = clean("--yes")
    assert code == 1 and wrong == f"runs/a: [Errno 13] Permission denied: '{stuck}/best/model.safetensors'"
    assert "removed: 1 run, 1 tokenized text (" in out
    assert (stuck / ".pealm").exists() and not other.exists() and tree(tokens) == [".pealm"]
    monkeypatch.setattr(Path, "unlink", real)
    assert "removed: 1 run (" in clean("--yes")[1] and tree(here / "runs") == []


KILLED = """
import os, signal, sys
from pealm_clean.command import clean
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
def test_after_a_kill_at_any_instant_the_next_one_continues(clean: Clean, here: Path, keep: tuple[str, ...]) -> None:
    killed = 0
    while True:
        run = make_run(here / "runs" / "r")
        tokens = make_tokens(here.parent / "cache", A)
        best = tree(run / "best")
        make_checkpoint(run / ".best.7.old", 10)
        process = subprocess.run([sys.executable, "-c", KILLED, str(killed), "--yes", *keep])
        assert process.returncode in (0, -9)
        assert not keep or tree(run / "best") == best
        for step in checkpoint.steps(run):
            if (step / "state.json").exists():  # without it, it does not count
                assert (step / "model.safetensors").exists()
        assert (tokens / A / "train.bin").exists() or not (tokens / A).exists()
        for path in (here.parent / "cache").rglob("*"):
            age(path, 1)
        assert clean("--yes")[0] == 0
        assert all(not path.is_file() for path in (here / "runs").rglob("*")) and tree(tokens) == [".pealm"]
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
    (run / "checkpoints" / "step-00000010" / "tokenizer").chmod(0o555)
    try:
        code, _, wrong = clean("--yes")
        assert code == 1 and wrong.startswith("runs/r: [Errno 13] Permission denied") and tree(run) == before
    finally:
        (run / "checkpoints" / "step-00000010" / "tokenizer").chmod(0o755)


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
    tokens = make_tokens(here.parent / "cache", A)
    before = tree(here.parent)
    asked = answer(monkeypatch, lambda text: tree(here.parent) == before and "text" not in text)
    code, out, _ = clean()
    assert code == 0 and not run.exists() and (tokens / A).exists()
    assert [text.rsplit(" (")[0] for text in asked] == ["Remove 1 run", "Remove 1 tokenized text"]
    assert "removed: 1 run (" in out and not run.exists()

    run = make_run(here / "runs" / "r")
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
    program = "from pealm_core import cli\ncli.main(['clean'])"
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
    code = "import sys\nimport pealm_clean.command\nassert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, None])
def test_without_locks_the_status_of_a_run_decides(
    clean: Clean, here: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def flock(handle: object, operation: int) -> None:
        assert error is not None
        raise OSError(error, "not available")

    if error is None:
        monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    else:
        monkeypatch.setattr(fcntl, "flock", flock)
    active, done = make_run(here / "runs" / "a", status="running"), make_run(here / "runs" / "b")
    killed, process = make_run(here / "runs" / "c", status="running"), subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    facts = {"status": "running", "pid": process.pid, "host": socket.gethostname()}
    (killed / "run.json").write_text(json.dumps(facts))
    assert clean("--yes")[0] == 0 and (active / "best").exists() and not done.exists() and not killed.exists()


def test_a_name_can_not_forge_a_line(clean: Clean, here: Path) -> None:
    make_run(here / "runs" / "a\nruns/b \x1b[31m")
    out = clean("--dry-run")[1]
    assert len(out.splitlines()) == 3 and "\x1b" not in out
