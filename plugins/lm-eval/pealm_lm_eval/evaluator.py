"""The evaluation: tasks of the harness on a model, with the harness's metrics."""

import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pealm_core import LM, EvalResult, Tokenizer, UserError
from pealm_lm_eval.config import LMEvalConfig


class LMEval:
    """The evaluation `lm-eval`."""

    def __init__(self, config: LMEvalConfig | None = None) -> None:
        self.config = config or LMEvalConfig()

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int, str], None],
    ) -> EvalResult:
        """Run the tasks. Raises UserError for an unknown task, and for one whose data can't be read."""
        if not self.config.tasks:
            raise UserError("lm-eval needs tasks: --eval.tasks arc_easy,piqa (lm_eval ls tasks lists them)")
        import lm_eval

        from pealm_lm_eval.model import PealmLM

        c = self.config
        lm = PealmLM(lm=LM(model, tokenizer, config), progress=progress)
        manager = _manager(c)
        if wrong := [task for task in c.tasks if not Path(task).is_file() and not manager.match_tasks([task])]:
            raise UserError(f"unknown task {', '.join(wrong)}; lm_eval ls tasks lists them (--eval.include-path DIR)")
        try:
            with _unchanged(), redirect_stdout(sys.stderr):
                found: Any = lm_eval.simple_evaluate(
                    lm,
                    tasks=list(c.tasks),
                    num_fewshot=c.num_fewshot,
                    limit=c.limit,
                    log_samples=c.details,
                    system_instruction=c.system_instruction,
                    apply_chat_template=c.apply_chat_template,
                    gen_kwargs=c.gen_kwargs,
                    task_manager=manager,
                    bootstrap_iters=1000,
                )
        except (OSError, ValueError, LookupError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"lm-eval can't run {', '.join(c.tasks)}: {reason:.500}") from error
        counts = {task: int(count["effective"]) for task, count in found["n-samples"].items()}
        return EvalResult(
            metrics=dict(_metrics(found["results"])),
            n=sum(counts.values()),
            notes=list(_notes(found, counts, lm_eval.__version__)),
            details=list(_details(found.get("samples", {}))),
        )


def _manager(config: LMEvalConfig) -> Any:
    """Return the harness's list of tasks: of the user's folder alone if all are there, which is quicker."""
    from lm_eval.tasks import TaskManager

    path = config.include_path
    folder = None if path is None else str(path)
    if path is not None:
        if not path.is_dir():
            raise UserError(f"--eval.include-path {folder}: there is no such folder")
        own = TaskManager(include_path=folder, include_defaults=False)
        if all(own.match_tasks([task]) for task in config.tasks):
            return own
    return TaskManager(include_path=folder)


@contextmanager
def _unchanged() -> Iterator[None]:
    """Restore the state of the generators that the harness seeds, and let it give its results to every process.

    By LOCAL_RANK it would give them to one alone. Each process has them all: `score` divides the work.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    local_rank = os.environ.pop("LOCAL_RANK", None)
    try:
        yield
    finally:
        if local_rank is not None:
            os.environ["LOCAL_RANK"] = local_rank
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield TASK/METRIC with its value and standard error; a filter other than none is part of the name."""
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, name = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = values.get(f"{metric}_stderr,{name}")
                suffix = "" if name == "none" else f",{name}"
                yield (
                    f"{task}/{metric}{suffix}",
                    (float(value), float(error) if isinstance(error, int | float) else 0.0),
                )


def _notes(found: Mapping[str, Any], counts: Mapping[str, int], version: str) -> Iterator[str]:
    yield f"lm-evaluation-harness {version}; the standard errors are its own"
    for task, count in counts.items():
        shots = found["n-shot"].get(task, 0)
        version = found["versions"].get(task)  # "Yaml" if the task's file names none
        known = "no version" if version in (None, "Yaml") else f"version {version}"
        yield f"{task}: {known}, {shots}-shot, {count:,} document{'s' * (count != 1)}"


def _details(samples: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield what the harness logged of each document, without the document itself."""
    for task, rows in samples.items():
        for row in sorted(rows, key=lambda row: (row["doc_id"], str(row.get("filter")))):
            suffix = "" if row.get("filter", "none") == "none" else f",{row['filter']}"
            given = {name: row.get(name) for name in row.get("metrics", ())}
            metrics: dict[str, Any] = {
                f"{task}/{n}{suffix}": float(v) for n, v in given.items() if isinstance(v, int | float)
            }
            if isinstance(pair := given.get("bits_per_byte"), list | tuple):  # log-likelihood and bytes
                metrics[f"{task}/bits_per_byte{suffix}"] = [-pair[0] / math.log(2), pair[1]]
            answers = row["filtered_resps"]
            facts = {"task": task, "document": row["doc_id"], "filter": row.get("filter", "none")}
            yield {**facts, "answers": _plain(answers), **metrics}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)
