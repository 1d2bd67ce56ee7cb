"""What TensorBoard's own reader finds in the folder of a run, also of one that resumed or whose logger failed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core import ObserverSpec
from pealm_core.plugins.loading import PluginHost
from pealm_testing import ObserverConformance

pytest.importorskip("tensorboard", reason="needs the package tensorboard: pip install tensorboard")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library

SIZES = "--block-size 8 --batch-size 4 --eval-every 10 --eval-tokens 200 --sample-every 10 --sample-prompt fox"


class TestConformance(ObserverConformance):
    spec = PluginHost.installed().find(ObserverSpec, "tensorboard").spec


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *words: object) -> Any:
        done = pealm("train", "char-bigram", "--input.text", book, *SIZES.split(), *words, "--out", out)
        assert done.code == 0, done.err
        return done

    return run


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def texts(events: Any, name: str) -> dict[int, str]:
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{name}/text_summary")}


def test_curves_samples_settings_and_evaluations(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "r"
    train(run, "--steps", 20, "--observer.tensorboard.every", 5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    events = read(run / "tensorboard")
    points = {point.step: point.value for point in events.Scalars("loss")}
    assert points == {row["step"]: pytest.approx(row["loss"]) for row in rows if row["step"] % 5 == 0}
    validations = {point.step: point.value for point in events.Scalars("val_loss")}
    assert validations == {row["step"]: pytest.approx(row["val_loss"]) for row in rows if "val_loss" in row}
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    shown = {step: text.replace("\n    ", "\n").strip() for step, text in texts(events, "sample").items()}
    assert shown == {line["step"]: f"fox{line['text']}".strip() for line in samples}
    assert '"steps": 20' in texts(events, "settings")[0]
    (best,) = events.Scalars("best_val_loss")
    assert best.value == pytest.approx(min(validations.values()))
    hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"train.batch_size" in hparams or b"train.batch-size" in hparams

    score = ("--on", "perplexity", "--input.text", tmp_path / "book.txt")
    assert pealm("eval", "--ckpt", run / "checkpoints" / "step-00000020", *score).code == 0
    train(run, "--steps", 30, "--lr", 1000)  # which does harm
    value = json.loads((run / "evals" / "perplexity-20.json").read_text())["metrics"]["bits_per_byte"]["value"]
    events = read(run / "tensorboard")
    assert events.Scalars("val_loss")[-1].value > best.value == events.Scalars("best_val_loss")[-1].value
    assert [point.step for point in events.Scalars("loss")] == [5, 10, 15, 20, 25, 30]
    points = {point.step: point.value for point in events.Scalars("perplexity/bits_per_byte")}
    assert points == {0: pytest.approx(value), 20: pytest.approx(value)}  # 0: of the hyperparameters
    assert list(texts(events, "sample")) == [10, 20, 30]


def test_without_the_setting_nothing_is_written(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path / "r", "--steps", 2)
    assert not (tmp_path / "r" / "tensorboard").exists()


def test_a_logger_that_fails_warns_once_and_the_run_continues(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("--observer.tensorboard.every", 1, "--observer.tensorboard.dir", tmp_path / "file" / "logs")
    done = train(tmp_path / "r", "--steps", 4, *words)
    (line,) = done.err.splitlines()
    assert line.startswith("pealm: pealm-tensorboard/tensorboard: pealm_run_start failed")
    assert line.endswith("the run continues without it") and "best" in done.out
