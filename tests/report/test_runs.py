"""`pealm runs`: what a run's folder tells of it, also while it trains and after a kill."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pealm_report.page import render
from pealm_report.reading import read

Make = Callable[..., Path]


def test_the_table_and_json_say_the_same(pealm: Callable[..., Any], make_run: Make, tmp_path: Path) -> None:
    make_run("b", steps=80, status="interrupted")
    make_run("a", entropy_floor=None)
    result = pealm("runs", tmp_path / "runs")
    head, first, second = result.out.splitlines()
    assert head.split() == ["run", "model", "data", "steps", "tokens", "best", "loss", "evaluations", "state", "size"]
    assert first.split()[:7] == [str(tmp_path / "runs" / "a"), "sprout", "kindergarten", "50", "5k", "1.2000", "–"]
    assert "50/80" in second and "1.2000 (floor 0.5000)" in second and "interrupted" in second
    found = json.loads(pealm("runs", tmp_path / "runs", "--json").out)
    size = sum(path.stat().st_size for path in (tmp_path / "runs" / "a").iterdir())
    assert found[0] == {
        "run": str(tmp_path / "runs" / "a"),
        "model": "sprout",
        "data": "kindergarten",
        "step": 50,
        "steps": 50,
        "tokens": 5000,
        "best_loss": 1.2,
        "entropy_floor": None,
        "state": "done",
        "bytes": size,
        "evaluations": [],
    }
    assert (found[1]["state"], found[1]["entropy_floor"]) == ("interrupted", 0.5)


def test_evaluations_are_listed_with_their_last_step(
    pealm: Callable[..., Any], make_run: Make, tmp_path: Path
) -> None:
    run = make_run("a")
    (run / "evals").mkdir()
    for name, step, value in (("hellaswag", 900, 0.25), ("hellaswag", 1000, 0.2863), ("perplexity", 50, 3.5)):
        metrics = {"acc" if name == "hellaswag" else "loss": {"value": value, "stderr": 0.01}, "more": {"value": 1}}
        content = {"evaluation": name, "n": 9, "step": step, "metrics": metrics}
        (run / "evals" / f"{name}-{step}.json").write_text(json.dumps(content))
    (run / "evals" / "broken.json").write_text("{")
    (run / "evals" / "odd-1.json").write_text('{"evaluation": "odd", "step": "x", "metrics": {"a": 1}}')
    line = pealm("runs", run).out.splitlines()[1]
    assert "  hellaswag acc 0.2863; odd –; perplexity loss 3.5000  done  " in line
    (found,) = json.loads(pealm("runs", run, "--json").out)
    assert [each["file"] for each in found["evaluations"]][:2] == [
        "evals/hellaswag-1000.json",
        "evals/hellaswag-900.json",
    ]
    assert found["evaluations"][0]["metrics"]["acc"] == {"value": 0.2863, "stderr": 0.01}
    assert "evals/perplexity-50.json, n = 9" in render([read(run)])


def test_real_runs_and_nothing_else(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert pealm("train", "char-bigram", "--input.text", book, "--out", home / "r", "--steps", 2).code == 0
    (home / "other").mkdir()
    (home / "other" / "config.toml").write_text("")
    (found,) = json.loads(pealm("runs", home, "--json").out)  # not its best/ nor its checkpoints
    assert (found["run"], found["model"], found["data"], found["state"]) == (
        str(home / "r"),
        "char-bigram",
        "text",
        "done",
    )
    assert pealm("runs", home / "other").out == f"no runs below {home / 'other'}\n"
    result = pealm("runs", tmp_path / "nowhere")
    assert result.code == 2 and "there is no such folder" in result.err


def test_states(make_run: Make) -> None:
    run = make_run("r", steps=80, status="running")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read(run).state == "running"
    assert read(run).state == "killed"  # it never said how it ended
    (run / "run.json").write_text('{"status": "failed"}')
    assert read(run).state == "failed"
    (run / "run.json").write_text('{"status": "interrupted"}')
    assert read(run).state == "interrupted"
    (run / "run.json").write_text('{"status": "pruned"}')
    assert read(run).state == "pruned"
    (run / "run.json").write_text("{")
    assert read(run).state == "stopped"
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("steps = 80", "steps = 50"))
    assert read(run).state == "done"


def test_a_dead_run_is_not_running(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free lock tells it; without locks the process number, on the host where it was started."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    cases: dict[str, dict[str, object]] = {
        "dead": {"pid": dead.pid, "host": socket.gethostname()},
        "alive": {"pid": os.getpid(), "host": socket.gethostname()},
        "elsewhere": {"pid": dead.pid, "host": "node7"},
        "odd": {"pid": 10**30, "host": socket.gethostname()},
        "odder": {"pid": [], "host": 3},
    }
    runs = {name: make_run(name, steps=80, status="running", **facts) for name, facts in cases.items()}
    for run in runs.values():
        (run / ".lock").touch()
    elsewhere = {"elsewhere": "running on node7"}
    with_locks = dict.fromkeys(cases, "killed") | elsewhere
    assert {name: read(run).state for name, run in runs.items()} == with_locks

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert {name: read(run).state for name, run in runs.items()} == with_locks | {"alive": "running"}
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    assert {name: read(run).state for name, run in runs.items()} == with_locks | {"alive": "running"}
    monkeypatch.setattr("pealm_report.reading.os", SimpleNamespace(**{**vars(os), "name": "nt", "kill": None}))
    assert read(runs["dead"]).state == read(runs["alive"]).state == "running"  # what run.json says


def test_a_line_that_was_cut_short_is_left_out(make_run: Make) -> None:
    run = make_run("r")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(
            b'{"step": 51, "loss": NaN, "val_loss": 0.1}\n{"step": 52, "tokens": 5200, "loss": 0.1, "val_loss": 0'
        )
    found = read(run)
    assert len(found.metrics) == 51 and found.metrics.best == (40, 1.2)
    assert found.summary.best_loss == 0.1  # of a whole line
    (run / "metrics.jsonl").write_bytes(b"\xff\x00[1]\n7\n")
    found = read(run)
    assert len(found.metrics) == 0 and found.metrics.best is None and found.summary.best_loss is None


def test_the_best_weights_are_of_a_step(make_run: Make) -> None:
    """The validation before the first step may be the lowest, of a run that diverges; its weights are not kept."""
    run = make_run("r")
    lines = (run / "metrics.jsonl").read_text().replace('"val_loss": 7.0', '"val_loss": 0.7')
    (run / "metrics.jsonl").write_text(lines)
    assert read(run).metrics.best == (40, 1.2) and read(run).summary.best_loss == 1.2
    assert read(run).metrics.val[0] == (0, 0.7)


@pytest.mark.parametrize(("name", "text"), [("config.toml", "="), ("config.toml", None)])
def test_what_is_no_run(pealm: Callable[..., Any], tmp_path: Path, name: str, text: str | None) -> None:
    (tmp_path / "r").mkdir()
    if text is not None:
        (tmp_path / "r" / name).write_text(text)
    result = pealm("report", tmp_path / "r")
    assert result.code == 2 and "can't be read" in result.err if text else "is not a run" in result.err


def test_the_plugin_loads_nothing_heavy() -> None:
    code = "import sys, pealm_report.plugin, pealm_report.commands; print({'torch', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
