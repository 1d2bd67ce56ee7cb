"""The harness's tasks on our models give what they give on the harness's own `hf` model of the same weights."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_evals import paired
from pealm_evals.rows import same_rows

TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")


def harness(model: Any, tasks: Path, names: list[str], **options: Any) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=10, **options)


def rows(found: Any, name: str) -> list[Any]:
    return [row["filtered_resps"] for row in sorted(found["samples"][name], key=lambda row: row["doc_id"])]


def close(a: Any, b: Any) -> bool:
    """Whether answers are equal: numbers within rounding, everything else exactly."""
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, abs=2e-4) if isinstance(a, float) else bool(a == b)


CASES = [("without bos", {}), ("with bos", {"num_fewshot": 1}), ("with bos", {"apply_chat_template": True})]
one = pytest.mark.parametrize("models", ["with bos"], indirect=True)


@pytest.mark.parametrize(("models", "options"), CASES, indirect=["models"], ids=str)
def test_answers_are_those_of_hf_row_by_row(models: tuple[Path, Path], tasks: Path, options: Any) -> None:
    from lm_eval.models.huggingface import HFLM

    from pealm_lm_eval.model import PealmLM

    theirs_lm = HFLM(pretrained=str(models[0]), device="cpu", dtype="float32", batch_size=1)
    names = [f"local_{kind}" for kind in TYPES if not (options and kind == "loglikelihood_rolling")]
    if "num_fewshot" in options:
        names = [name for name in names if "generate" not in name]
    theirs = harness(theirs_lm, tasks, names, **options)
    ours = harness(PealmLM(str(models[1]), device="cpu"), tasks, names, **options)
    for name in names:
        answers = rows(ours, name)
        assert close(answers, rows(theirs, name)), name
        assert len({json.dumps(answer) for answer in answers}) > 3  # they vary
        assert [row["arguments"] for row in ours["samples"][name]] == [
            row["arguments"] for row in theirs["samples"][name]
        ]
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float) and "stderr" not in metric:
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric


@one
def test_pealm_eval_runs_the_tasks(
    models: tuple[Path, Path], tasks: Path, tmp_path: Path, pealm: Callable[..., Any]
) -> None:
    from pealm_lm_eval.model import PealmLM

    names = [f"local_{kind}" for kind in TYPES]
    line = ("eval", "--ckpt", models[1], "--on", "lm-eval", "--eval.include-path", tasks, "--device", "cpu")
    output = tmp_path / "results.json"
    done = pealm(*line, "--eval.tasks", ",".join(names), "--eval.details", "true", "--output", output)
    assert done.code == 0, done.err
    found = json.loads(output.read_text())
    direct = harness(PealmLM(str(models[1]), device="cpu"), tasks, names)
    for key, metric in found["metrics"].items():
        task, _, name = key.partition("/")
        assert metric["value"] == pytest.approx(direct["results"][task][f"{name},none"], rel=1e-6), key
        if name in ("acc", "acc_norm"):  # the others' errors are by bootstrap, or unknown
            assert metric["stderr"] == pytest.approx(direct["results"][task][f"{name}_stderr,none"]), key
    assert found["metrics"]["local_multiple_choice/acc"]["stderr"] > 0
    assert found["n"] == 12 * 4 and len(found["metrics"]) == 2 + 2 + 3 + 1
    for name in names:
        own = [row["answers"] for row in found["details"] if row["task"] == name]
        assert close(own, json.loads(json.dumps(rows(direct, name))))
    for name, metric in found["metrics"].items():
        if "perplexity" not in name:  # no mean of values by row
            [values] = same_rows(name, [found["details"]])
            assert paired.value(values) == pytest.approx(metric["value"], rel=1e-6), name
    assert any(note.startswith("local_loglikelihood: no version, 0-shot, 12 documents") for note in found["notes"])
    few = pealm(*line, "--eval.tasks", names[0], "--eval.num-fewshot", 2, "--limit", 3)
    assert "n = 3 in" in few.out and "2-shot, 3 documents" in few.out
    chat = pealm(*line, "--eval.tasks", names[0], "--eval.apply-chat-template", "true", "--limit", 3)
    assert chat.code == 0 and chat.out != few.out
    sampled = ("--eval.tasks", names[3], "--eval.gen-kwargs", "do_sample=true,temperature=0.9,top_k=5")
    assert pealm(*line, *sampled).out.splitlines()[1:] == pealm(*line, *sampled).out.splitlines()[1:]


@pytest.fixture
def no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the harness's own thousands of tasks, which take ten seconds to read."""
    from lm_eval.tasks import TaskManager

    first = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: first(self, *a, **{**k, "include_defaults": False})
    )


@one
def test_mistakes_are_one_line(
    models: tuple[Path, Path], tasks: Path, tmp_path: Path, pealm: Callable[..., Any], no_defaults: None
) -> None:
    line = ("eval", "--ckpt", models[1], "--on", "lm-eval", "--device", "cpu", "--eval.include-path")
    (tmp_path / "broken.yaml").write_text(
        (tasks / "local_loglikelihood.yaml").read_text().replace("rows.jsonl", "none.jsonl")
    )
    long = (tasks / "local_generate_until.yaml").read_text()
    (tmp_path / "long.yaml").write_text(
        long.replace("max_gen_toks: 12", "max_gen_toks: 64").replace("local_generate", "long")
    )
    (tmp_path / "beams.yaml").write_text(
        long.replace("max_gen_toks: 12", "max_gen_toks: 12, num_beams: 4").replace("local_generate", "beams")
    )
    for words, message in (
        ((tasks,), "lm-eval needs tasks: --eval.tasks arc_easy,piqa"),
        ((tasks / "none", "--eval.tasks", "x"), "none: there is no such folder"),
        (
            (tasks, "--eval.tasks", "local_loglikelihood,no,none"),
            "unknown task no, none; lm_eval ls tasks lists them",
        ),
        ((tmp_path, "--eval.tasks", "local_loglikelihood"), "lm-eval can't run local_loglikelihood: Unable to find"),
        ((tmp_path, "--eval.tasks", "long_until"), "asks for 64 new tokens, and the model's context has 64"),
        ((tmp_path, "--eval.tasks", "beams_until"), "a task generates with num_beams, which pealm does not have"),
    ):
        done = pealm(*line, *words)
        errors = [text for text in done.err.splitlines() if text.startswith("pealm: ")]
        assert done.code == 2 and len(errors) == 1 and message in errors[0], done.err


@pytest.mark.parametrize(("names", "defaults"), [(("own",), [False]), (("own", "piqa"), [False, True])])
def test_the_harness_s_own_tasks_are_read_only_if_one_is_asked_for(
    names: tuple[str, ...], defaults: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pealm_lm_eval.config import LMEvalConfig
    from pealm_lm_eval.evaluator import _manager

    class Manager:
        def __init__(self, include_path: str, include_defaults: bool = True) -> None:
            assert include_path == str(tmp_path)
            made.append(include_defaults)
            self.known = {"own", "piqa"} if include_defaults else {"own"}

        def match_tasks(self, names: list[str]) -> list[str]:
            return [name for name in names if name in self.known]

    made = list[bool]()
    monkeypatch.setattr("lm_eval.tasks.TaskManager", Manager)
    manager = _manager(LMEvalConfig(tasks=names, include_path=tmp_path))
    assert made == defaults and manager.match_tasks([*names]) == [*names]


@one
def test_any_process_has_the_results_and_its_own_random_numbers(
    models: tuple[Path, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import random

    import numpy as np
    import torch

    from pealm_core import load
    from pealm_lm_eval.config import LMEvalConfig
    from pealm_lm_eval.evaluator import LMEval

    lm = load(models[1], device="cpu")
    evaluator = LMEval(LMEvalConfig(tasks=("local_multiple_choice",), include_path=tasks))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.random(), np.random.rand(), float(torch.rand(1))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process of torchrun
    result = evaluator.evaluate(lm.model, lm.tokenizer, config={}, progress=lambda *_: None)
    assert result.n == 12 and os.environ["LOCAL_RANK"] == "1"
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == before


@one
def test_the_harness_s_own_command_knows_the_model(
    models: tuple[Path, Path],
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    no_defaults: None,
) -> None:
    """`python -m pealm_lm_eval` is the harness's command line with one more model."""
    name = "local_multiple_choice"
    args = ["run", "--model", "pealm", "--model_args", f"path={models[1]}", "--tasks", name]  # a user names no device
    args += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out.json"), "--batch_size", "4"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *args])
    runpy.run_module("pealm_lm_eval", run_name="__main__")
    assert f"|{name}|" in capsys.readouterr().out.replace(" ", "")
    (written,) = tmp_path.glob("**/*.json")
    from pealm_lm_eval.model import PealmLM

    direct = harness(PealmLM(str(models[1]), device="cpu"), tasks, [name])["results"][name]
    assert json.loads(written.read_text())["results"][name]["acc,none"] == pytest.approx(direct["acc,none"])
    monkeypatch.setattr(sys, "argv", ["lm_eval", *(arg.replace(str(models[1]), "nowhere") for arg in args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("pealm_lm_eval", run_name="__main__")
    assert end.value.code == 2 and "\npealm: nowhere: no such file or folder" in "\n" + capsys.readouterr().err


@one
def test_prompts_of_all_lengths_share_a_batch_and_equal_ones_are_samples(models: tuple[Path, Path]) -> None:
    from lm_eval.api.instance import Instance

    from pealm_core import load
    from pealm_lm_eval.model import PealmLM

    lm = load(models[1], device="cpu")
    options = {"until": ["~"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    contexts = ["the", "the cat", "the", "a cat sat on", "the"]
    requests = [Instance("generate_until", {}, (text, options), number) for number, text in enumerate(contexts)]
    rows: list[int] = []
    lm.model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    texts = PealmLM(lm=lm).generate_until(requests)
    assert len({texts[number] for number in (0, 2, 4)}) > 1
    assert rows.count(3) == 5 and rows.count(2) == 5  # the samples of one prompt; two prompts


RANK = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from lm_eval.api.instance import Instance
from pealm_lm_eval.model import PealmLM

store, rank = sys.argv[2:]
dist.init_process_group("gloo", init_method="file://" + store, rank=int(rank), world_size=2)
model, rows, done = PealmLM(sys.argv[1], device="cpu"), [], []
model.lm.model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
model.progress = lambda *told: done.append(told[:2])
requests = [Instance("generate_until", {}, (text, options), n) for n, (text, options) in enumerate(json.load(sys.stdin))]
Path(store + rank).write_text(json.dumps([model.generate_until(requests), sum(rows), done]))
dist.barrier()
os._exit(0)
"""


@one
def test_two_processes_divide_the_texts_to_generate(models: tuple[Path, Path], tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from pealm_lm_eval.model import PealmLM

    greedy, sampled = ({"until": ["~"], "max_gen_toks": 6, "do_sample": sample} for sample in (False, True))
    contexts = ["the", "the cat", "a cat sat on", "what is it?", "a dog", "so so"]
    pairs = [(text, options) for options in (greedy, sampled, sampled) for text in contexts]
    model, rows = PealmLM(str(models[1]), device="cpu"), list[int]()
    model.lm.model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    expected = model.generate_until([Instance("generate_until", {}, pair, n) for n, pair in enumerate(pairs)])
    script, running = tmp_path / "rank.py", []
    script.write_text(RANK)
    for rank in range(2):
        words = [sys.executable, str(script), str(models[1]), str(tmp_path / "store"), str(rank)]
        running.append(subprocess.Popen(words, stdin=subprocess.PIPE, text=True))
        running[-1].stdin.write(json.dumps(pairs))
        running[-1].stdin.close()
    assert [process.wait(100) for process in running] == [0, 0]
    for rank in range(2):
        texts, seen, done = json.loads((tmp_path / f"store{rank}").read_text())
        assert texts == expected
        assert 0.3 * sum(rows) < seen < 0.7 * sum(rows)
        assert done[-1] == [len(pairs), len(pairs)]
