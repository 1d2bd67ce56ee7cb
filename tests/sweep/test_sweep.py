"""`pealm sweep`: mistakes in a file, a study that is killed and resumes, pruning, and processes that share a study."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_core import CommandSpec
from pealm_core.plugins.loading import PluginHost
from pealm_testing import CommandConformance

pytest.importorskip("optuna", reason="needs the package optuna: pip install optuna")

Pealm = Callable[..., Any]
BASE = """
[model]
name = "char-bigram"
[input]
text = {text}
[train]
steps = 20
block-size = 8
batch-size = 4
eval-every = 5
eval-tokens = 200
save-every = 5
warmup-steps = 0
"""


class TestConformance(CommandConformance):
    spec = PluginHost.installed().find(CommandSpec, "sweep").spec
    arguments = None


@pytest.fixture
def file(tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a file of a study below a small config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "report")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(sweep: str) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(BASE.format(text=json.dumps(str(book))) + sweep)
        return path

    return write


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("", "needs a table [sweep.options] with the values to try, such as lr = [0.001, 0.01]"),
        ("[sweep]\noptions = 3", "needs a table [sweep.options] with the values to try, such as lr = [0.001, 0.01]"),
        ("[sweep]\nsamplr = 'tpe'\noptions.lr = [1]", "[sweep] samplr: unknown key; did you mean 'sampler'?"),
        ("[sweep]\nsampler = 'best'\noptions.lr = [1]", "[sweep] sampler must be tpe, random or grid, not 'best'"),
        ("[sweep]\ntrials = 0\noptions.lr = [1]", "[sweep] trials must be a whole number from 1 on, not 0"),
        ("[sweep]\ntrials = 99999\noptions.lr = [1]", "[sweep] trials 99,999 is too large; 10,000 are the most"),
        ("[sweep]\npruning = true\noptions.lr = [1]", "[sweep] pruning must be median or none, not True"),
        ("[sweep.options]\nlr = 0.1", "[sweep.options] lr = 0.1: give a list, or {low = ..., high = ...}"),
        ("[sweep.options]\nlr = []", "[sweep.options] lr must be a list of numbers, texts or true and false"),
        ("[sweep.options]\nlr = {low = 1}", "[sweep.options] lr: low, high and step must be finite numbers"),
        ("[sweep.options]\nlr = {low = 2, high = 1}", "[sweep.options] lr: low 2 must be below high 1, and a step above 0"),
        ("[sweep.options]\nlr = {low = 0, high = 1, log = true}", "[sweep.options] lr: with log, low must be above 0, and there is no step"),
        ("[sweep.options]\nlr = {low = 0, high = 1, by = 2}", "[sweep.options] lr: unknown key 'by'; a range has low, high, log and step"),
        ("[sweep.options]\nlr = {low = 0, high = 1, step = 1e-9}", "[sweep.options] lr: step 1e-09 is too small for 0 to 1"),
        ("[sweep]\nsampler = 'grid'\noptions.lr = {low = 0.1, high = 1}", "[sweep.options] lr: a grid needs a list of values, or a step of the range"),
        ("[sweep.options]\nout = ['a']", "[sweep.options] out is set by the sweep; leave it out"),
        ("[sweep.options]\nlearning = [1]", "No such option"),
        ("[sweep.options]\nmodel.n-embd = [1]", "unknown option --model.n-embd"),
        ("[sweep.options]\nlr = [0.1, -1]", "--lr must be above 0"),
        ("[sweep.options]\nlr = [0.1, 'x']", "--lr"),
        ("[sweep.options]\nschedule = ['cosine', 'sinus']", "sinus"),
        ("[sweep.options]\nlr = [0.1]\n[modl]", "[modl]: unknown table"),
        ("[sweep.options", "bad TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(sweep: str, message: str, file: Callable[[str], Path], pealm: Pealm) -> None:
    path = file(sweep)
    done = pealm("sweep", path)
    assert done.code == 2 and done.err.startswith(f"pealm: {path}"), done.err
    assert message in done.err and len(done.err.splitlines()) == 1, done.err
    assert not Path("runs").exists()


def test_a_missing_file_and_a_file_in_the_way(file: Callable[[str], Path], pealm: Pealm, tmp_path: Path) -> None:
    done = pealm("sweep", tmp_path / "none.toml")
    assert (done.code, done.err) == (
        2,
        f"pealm: {tmp_path / 'none.toml'}: can't be read: No such file or directory\n",
    )
    (tmp_path / "taken").write_text("")
    done = pealm("sweep", file("[sweep.options]\nlr = [0.1]"), "--out", tmp_path / "taken")
    assert done.code == 2 and len(done.err.splitlines()) == 1, done.err


GRID = """
[sweep]
sampler = "grid"
[sweep.options]
lr = [0.1]
micro-batch-size = [2, 3]
"""


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.02)


def test_a_system_without_file_locks(
    file: Callable[[str], Path], pealm: Pealm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    for name in ("study", "runner"):
        monkeypatch.delitem(sys.modules, f"pealm_sweep.{name}", raising=False)
    result = pealm("sweep", file("[sweep.options]\nlr = [0.1]"))
    assert result.code == 2 and "needs POSIX file locks" in result.err and result.err.count("\n") == 1


def test_a_killed_study_resumes_and_failed_trials_have_their_reason(
    file: Callable[[str], Path], pealm: Pealm, tmp_path: Path
) -> None:
    path, study = file(GRID), tmp_path / "runs" / "study"
    process = subprocess.Popen([sys.executable, "-m", "pealm", "sweep", str(path)], stdout=subprocess.DEVNULL)
    wait_for((study / "trial-0000.log").exists, process)
    process.kill()
    process.wait()
    done = pealm("sweep", path)
    assert done.code == 0, done.err
    rows = [line.split(maxsplit=5) for line in (study / "trials.txt").read_text().splitlines()]
    assert rows[0] == ["trial", "state", "val_loss", "lr", "micro-batch-size", "reason"]
    lines = [json.loads(line) for line in (study / "trial-0000" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(21)]
    loss = min(line["val_loss"] for line in lines[1:] if "val_loss" in line)
    assert rows[1] == ["trial-0000", "done", f"{loss:.4f}", "0.1", "2"]
    reason = "--micro-batch-size 3 does not divide --batch-size 4; try 2"
    assert rows[2] == ["trial-0002", "failed", "–", "0.1", "3", reason]  # 1 repeats 0
    assert f"best: trial-0000, validation loss {loss:.4f}" in done.out and len(rows) == 3
    best = pealm("train", "--config", study / "best.toml", "--print-config").out
    assert "\nlr = 0.1 " in best and "\nmicro-batch-size = 2 " in best

    again = pealm("sweep", path)  # nothing is left to do
    assert again.code == 0 and again.out.startswith("trial  ") and "trial-0003" not in again.out
    other = pealm("sweep", file(GRID.replace("0.1", "0.3")), "--out", study)
    problem = (
        f"{study} is a study with another [sweep.options] lr; undo the change in the file, or choose another --out"
    )
    assert (other.code, other.err) == (2, f"pealm: {problem}\n")


def states(study: Path) -> dict[str, str]:
    """Return the states of trials by run, as the table has them; none is running in Optuna's journal."""
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    storage = JournalStorage(JournalFileBackend(str(study / "study.journal")))
    assert not load_study(study_name="sweep", storage=storage).get_trials(states=[TrialState.RUNNING])
    rows = [line.split() for line in (study / "trials.txt").read_text().splitlines()[1:]]
    return {row[0]: row[1] for row in rows}


LONG = "[sweep]\nsampler = 'grid'\noptions.steps = [1000000]\noptions.batch-size = [12]\noptions.micro-batch-size = "


def test_a_sweep_that_gives_up_leaves_no_trial_running(
    file: Callable[[str], Path], pealm: Pealm, tmp_path: Path
) -> None:
    from pealm_sweep.study import is_locked

    done = pealm("sweep", file(f"{LONG}[2, 5, 7, 8]"), "--jobs", 2)
    assert done.code == 1 and "the first 3 trials have all failed" in done.err
    study = tmp_path / "runs" / "study"
    failed = {f"trial-{number:04d}": "failed" for number in (1, 2, 3)}
    assert states(study) == {"trial-0000": "waiting", **failed}
    assert not is_locked(study / "trial-0000.log")  # its process has ended


def test_ctrl_c_leaves_no_trial_running(file: Callable[[str], Path], tmp_path: Path) -> None:
    path, study = file(f"{LONG}[2]"), tmp_path / "runs" / "study"
    process = subprocess.Popen([sys.executable, "-m", "pealm", "sweep", str(path)], stdout=subprocess.PIPE)
    wait_for((study / "trial-0000" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    out = process.communicate()[0].decode()
    assert process.returncode == 130 and f"interrupted; resume with: pealm sweep {path} --out " in out
    assert states(study) == {"trial-0000": "waiting"}
    assert json.loads((study / "trial-0000" / "run.json").read_text())["status"] == "interrupted"


def test_a_trial_that_was_cut_short_resumes_in_its_folder(study: Any) -> None:
    from pealm_sweep.page import write

    first = study.ask()
    study.repeat(first)
    values = str(first.params["lr"])
    write(study)
    assert [line.split() for line in (study.folder / "trials.txt").read_text().splitlines()[1:]] == [
        ["trial-0000", "waiting", "–", values]
    ]
    again = study.ask()
    assert again.number != first.number
    assert (again.params, again.user_attrs["run"]) == (first.params, first.user_attrs["run"])
    assert [trial.number for trial in study.trials()] == [again.number]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_resumed_study_draws_other_values_than_before(sampler: str, tmp_path: Path) -> None:
    from pealm_sweep.plan import Plan, Range
    from pealm_sweep.study import Study

    def draw(folder: Path, count: int) -> list[float]:
        study = Study(Plan({}, {"lr": Range(0.0, 1.0)}, sampler, 9, True, 0), folder)
        trials = [study.ask() for _ in range(count)]
        for trial in trials:
            assert trial is not None
            study.tell(trial, 1.0)
        study.close()
        return [trial.params["lr"] for trial in trials if trial is not None]

    parts = [value for _ in range(2) for value in draw(tmp_path / "parts", 2)]
    assert parts == draw(tmp_path / "whole", 4) and len({*parts}) == 4


def test_a_study_without_hope_ends(file: Callable[[str], Path], pealm: Pealm) -> None:
    done = pealm("sweep", file("[sweep]\nsampler = 'random'\noptions.micro-batch-size = [3]"))
    reason = "--micro-batch-size 3 does not divide --batch-size 4; try 2"
    assert (done.code, done.err) == (1, f"pealm: the first 3 trials have all failed; the last one: {reason}\n")


def test_a_damaged_journal_is_named(file: Callable[[str], Path], pealm: Pealm, tmp_path: Path) -> None:
    (journal := tmp_path / "runs" / "study" / "study.journal").parent.mkdir(parents=True)
    journal.write_text("no journal\nof a study\n")
    done = pealm("sweep", file("[sweep.options]\nlr = [0.1]"))
    assert done.code == 2 and done.err.startswith("pealm: runs/study/study.journal is not a study, or damaged: ")


SLOW = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Any]:
    """A study of eight trials."""
    from pealm_sweep.plan import Choices, Plan
    from pealm_sweep.study import Study

    plan = Plan({}, {"lr": Choices((1, 2, 3, 4))}, "random", 8, True, 0)
    study = Study(plan, tmp_path / "shared")
    yield study
    study.close()


def test_the_table_the_best_config_and_the_page(study: Any, tmp_path: Path) -> None:
    from pealm_sweep.page import write

    for loss in (2.5, 1.5, None, 3.5):
        trial = study.ask()
        run = study.folder / trial.user_attrs["run"]
        run.mkdir()
        (run / "config.toml").write_text(f"loss = {loss}\n")
        study.tell(trial, loss, "<script>\x1b[2J")
    write(study)
    assert (study.folder / "best.toml").read_text() == "loss = 1.5\n"
    rows = [line.split() for line in (study.folder / "trials.txt").read_text().splitlines()]
    assert [(row[1], row[2]) for row in rows[1:]] == [
        ("done", "1.5000"),
        ("done", "2.5000"),
        ("done", "3.5000"),
        ("failed", "–"),
    ]
    page = (study.folder / "study.html").read_text()
    assert page.count("<circle") == 2 * 3 and page.count('class="best"') == 2
    assert "&lt;script&gt;" in page and not any(text in page for text in ("<script", "\x1b", "http://", "https://"))


def test_a_trial_above_the_median_is_ended(study: Any, tmp_path: Path) -> None:
    from optuna.trial import TrialState

    from pealm_sweep.runner import Running

    for loss in (1.0, 2.0, 3.0):
        trial = study.ask()
        for number in (1, 2, 3):
            trial.report(loss, number)
        study.tell(trial, loss)
    outcomes = []
    for loss in (1.5, 2.5):
        trial = study.ask()
        run = tmp_path / trial.user_attrs["run"]
        run.mkdir()
        rows = [{"step": step, "val_loss": loss} for step in range(4)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "val_lo')
        process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        running = Running(trial, run, [], {}, 0, process=process)
        assert running.poll() is None and running.losses == [loss] * 3
        if running.pruned:
            process.wait()
            outcome = running.poll()
            assert outcome is not None
            study.tell(trial, outcome.value, outcome.reason, pruned=outcome.pruned)
            outcomes.append((loss, outcome.value))
        process.kill()
        process.communicate()
    assert outcomes == [(2.5, 2.5)]
    states = [trial.state for trial in study.trials()]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING, TrialState.PRUNED]


@pytest.mark.parametrize(("status", "shown"), [("interrupted", "pruned"), ("done", "done")])
def test_every_plugin_that_lists_runs_shows_a_pruned_one(study: Any, pealm: Pealm, status: str, shown: str) -> None:
    """A run that had ended by itself before the sweep could end it stays done."""
    from pealm_sweep.runner import Running

    reading, serve = pytest.importorskip("pealm_report.reading"), pytest.importorskip("pealm_serve.runs")
    pytest.importorskip("pealm_clean")
    trial = study.ask()
    run = study.folder.resolve() / trial.user_attrs["run"]
    run.mkdir()
    for name in (".pealm", ".lock", "config.toml"):
        (run / name).touch()
    (run / "run.json").write_text(json.dumps({"status": status, "pid": 1}))
    (run / "metrics.jsonl").write_text('{"step": 5, "val_loss": 2.5}\n')
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    running = Running(trial, run, [], {}, 0, process=process, pruned=True)
    assert running.poll() is not None
    assert json.loads((run / "run.json").read_text()) == {"status": shown, "pid": 1}
    assert (reading.read(run).state, serve.state_of(run)["status"]) == (shown, shown)
    assert shown in serve.ENDED  # the page stops waiting for lines
    rows = [line.split() for line in pealm("clean", str(run), "--dry-run").out.splitlines()]
    assert [row[-1] for row in rows if run.name in row[0]] == [shown]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "killed by SIGKILL"),
        ("sys.exit('pealm: the disk is full')", "the disk is full"),
        ("sys.exit(3)", "it ended with exit code 3"),
        ("sys.exit(0)", "it has no finite validation loss after its first step"),
    ],
)
def test_the_reason_of_a_failure(study: Any, tmp_path: Path, code: str, reason: str) -> None:
    from pealm_sweep.runner import Running

    running = Running(study.ask(), tmp_path / "run", [], {}, 0)
    with running.log.open("wb") as log:
        running.process = subprocess.Popen([sys.executable, "-c", f"import os, sys; {code}"], stderr=log)
    running.process.wait()
    outcome = running.poll()
    assert outcome is not None and (outcome.value, outcome.reason) == (None, reason)


SHARE = """
import sys
from pathlib import Path
from pealm_sweep.plan import Choices, Plan
from pealm_sweep.study import Study
study = Study(Plan({}, {"lr": Choices((1, 2, 3, 4)), "seed": Choices((5, 6))}, "grid", 8, True, 0), Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while (trial := study.ask()) is not None:
    print(trial.params["lr"], trial.params["seed"], flush=True)
    study.tell(trial, 1.0)
"""


def test_processes_share_a_study(tmp_path: Path) -> None:
    line = [sys.executable, "-c", SHARE, str(tmp_path / "shared")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(line, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    for process in processes:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    trials = [row for process in processes for row in process.communicate()[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(trials) == sorted(f"{lr} {seed}" for lr in (1, 2, 3, 4) for seed in (5, 6))


def test_each_job_has_a_gpu_and_its_part_of_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from pealm_sweep.runner import environment

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [environment(slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["2", "5", "2"]
    assert environment(0, 10_000)["OMP_NUM_THREADS"] == "1"
    assert environment(0, 1) == dict(os.environ)
