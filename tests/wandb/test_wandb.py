"""What is in the file that wandb writes offline, and that its failures stop no run. Nothing here uses the network."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_core import ObserverSpec
from pealm_core.plugins.loading import PluginHost
from pealm_testing import ObserverConformance

wandb = pytest.importorskip("wandb", reason="needs the package wandb: pip install wandb")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library

SIZES = "--block-size 8 --batch-size 4 --eval-every 10 --eval-tokens 200 --sample-every 10 --sample-prompt fox"
OFFLINE = ("--observer.wandb.project", "stories", "--observer.wandb.mode", "offline")
BLOCK = 32768  # bytes of a block of wandb's file, which is a log of LevelDB


class TestConformance(ObserverConformance):
    spec = PluginHost.installed().find(ObserverSpec, "wandb").spec


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")

    def run(out: Path, *words: object) -> Any:
        done = pealm("train", "char-bigram", "--input.text", book, *SIZES.split(), *words, "--out", out)
        wandb.teardown()  # its process has written the file when it ends
        assert done.code == 0, done.err
        return done

    return run


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # the rest of a block is empty
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            yield message
            record = b""


def history(file: Path) -> list[dict[str, Any]]:
    rows = (record.history.item for record in records(file) if record.WhichOneof("record_type") == "history")
    return [{(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in row} for row in rows]


def test_a_run_is_logged_offline_and_resumes_as_the_same_one(train: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "r"
    done = train(run, "--steps", 20, *OFFLINE, "--observer.wandb.every", 5)
    assert not done.err
    (first,) = run.glob("wandb/offline-run-*/*.wandb")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    logged = {row["_step"]: row for row in history(first) if "loss" in row}
    assert {step: row["loss"] for step, row in logged.items()} == {
        row["step"]: row["loss"] for row in rows if row["step"] % 5 == 0
    }
    assert {step: row["val_loss"] for step, row in logged.items() if "val_loss" in row} == {
        row["step"]: row["val_loss"] for row in rows if "val_loss" in row
    }
    (start,) = (r.run for r in records(first) if r.WhichOneof("record_type") == "run")
    config = {update.key: json.loads(update.value_json) for update in start.config.update}
    assert start.project == "stories" and config["train"]["steps"] == 20
    tables = [json.loads(path.read_text()) for path in first.parent.glob("files/media/table/*.json")]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert sorted(row for table in tables for row in table["data"]) == [
        [line["step"], "fox", line["text"]] for line in samples
    ]

    result = {"evaluation": "stories", "n": 1, "metrics": {"accepted": {"value": 0.5, "stderr": 0.1}}}
    (run / "stories.json").write_text(json.dumps(result))
    for step, value in ((900, 0.25), (1000, 0.75)):  # as `pealm eval --ckpt RUN` keeps them
        metrics = {"acc": {"value": value, "stderr": 0.1}}
        (run / "evals").mkdir(exist_ok=True)
        (run / "evals" / f"rows-{step}.json").write_text(
            json.dumps({"evaluation": "rows", "n": 1, "step": step, "metrics": metrics})
        )
    train(run, "--steps", 30)
    (second,) = set(run.glob("wandb/offline-run-*/*.wandb")) - {first}
    assert second.name == first.name  # the same run's id
    assert [row["_step"] for row in history(second) if "loss" in row] == [25, 30]
    updates = [u for r in records(second) if r.WhichOneof("record_type") == "summary" for u in r.summary.update]
    assert [u.value_json for u in updates if "stories/accepted" in (u.key, *u.nested_key)] == ["0.5"]
    assert [u.value_json for u in updates if "rows/acc" in (u.key, *u.nested_key)][-1:] == ["0.75"]


def test_without_a_project_nothing_is_logged(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path / "r", "--steps", 2)
    assert not (tmp_path / "r" / "wandb").exists()


def test_a_logger_that_fails_warns_once_and_the_run_continues(train: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "r"
    train(run, "--steps", 2)
    (run / "wandb").write_text("in the way")
    done = train(run, "--steps", 4, *OFFLINE)
    (line,) = done.err.splitlines()
    assert line.startswith("pealm: pealm-wandb/wandb: pealm_run_start failed at step 2")
    assert line.endswith("the run continues without it") and "best" in done.out
