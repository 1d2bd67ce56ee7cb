"""How fast tasks of lm-evaluation-harness run on pealm, beside the harness's own `hf` model on the same weights.

    pip install "lm-eval[hf]" pealm-lm-eval
    TIKTOKEN_CACHE_DIR=... python scripts/bench/harness.py [--rows 100] [--rounds 3] [--batch-size 8] [--dtype bf16]

GPT-2 (124M) with random weights, by default in fp32, and HellaSwag's rows as tasks of all the harness's output types:
multiple_choice (the harness's own HellaSwag), few_shot (the same after five solved rows), letters (the endings in the
question, answers A to D), loglikelihood (the right ending), loglikelihood_rolling (the context), documents (rolling
as well, of twenty rows with all their endings in one text), generate_until (16 tokens, greedy). Both models answer
the same requests in one process, in rounds that alternate; timed are the answers with their tokenization. Printed is
the median of the rounds' ratios with their range, and the median ratio of CPU time, which tells more where others use
the machine. The harness's default is `--batch-size 1`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

other: Any = import_module("hellaswag")  # the script beside this one

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # their names for the harness
KINDS: dict[str, dict[str, Any]] = {
    "multiple_choice": {"doc_to_text": "{{query}}", "doc_to_target": "{{label}}", "doc_to_choice": "choices"},
    "few_shot": {"output_type": "multiple_choice"},
    "letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\n{% for c in choices %}{{'ABCD'[loop.index0]}}. {{c}}\n{% endfor %}Answer:",
        "doc_to_target": "{{label}}",
        "doc_to_choice": ["A", "B", "C", "D"],
    },
    "loglikelihood": {"doc_to_text": "{{query}}", "doc_to_target": " {{choices[gold]}}"},
    "loglikelihood_rolling": {"doc_to_text": "", "doc_to_target": "{{query}}"},
    "documents": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{query}} {{choices | join(' ')}}",
    },
    "generate_until": {
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
    },
}


def task(kind: str, rows: Path) -> dict[str, Any]:
    """Return HellaSwag's rows as a task of an output type."""
    from lm_eval.tasks.hellaswag.utils import process_docs

    examples = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()[:5]]
    solved = [f"{row['ctx']} {row['endings'][int(row['label'])]}\n\n" for row in examples]
    more = KINDS["multiple_choice"] | {"description": "".join(solved)} if kind == "few_shot" else {}
    output = KINDS[kind].get("output_type", kind)
    metrics = {"loglikelihood_rolling": ["byte_perplexity"], "generate_until": ["exact_match"]}.get(output, ["acc"])
    return {
        "task": kind,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(rows)}},
        "validation_split": "validation",
        "output_type": output,
        "process_docs": process_docs,
        "metric_list": [{"metric": metric} for metric in metrics],
        **more,
        **KINDS[kind],
    }


def requests_of(kind: str, rows: Path) -> list[Any]:
    """Return the requests that the harness makes of a task."""
    from lm_eval.api.task import ConfigurableTask

    made = ConfigurableTask(config=task(kind, rows))
    made.build_all_requests(rank=0, world_size=1)
    requests = list(made.instances)
    if kind != "documents":
        return requests
    texts = [request.args[0] for request in requests]
    return [replace(requests[0], arguments=(" ".join(texts[at : at + 20]),)) for at in range(0, len(texts), 20)]


def difference(kind: str, ours: list[Any], theirs: list[Any]) -> str:
    """Say how far the answers are apart: the largest difference, or how many texts are equal."""
    pairs = list(zip(ours, theirs, strict=True))
    if kind == "generate_until":
        return f"{sum(a == b for a, b in pairs)} of {len(pairs)} texts equal"
    values = [abs(a - b) if isinstance(a, float) else abs(a[0] - b[0]) for a, b in pairs]
    return f"log-likelihoods differ by {max(values):.1e} at most"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100, help="rows of HellaSwag [100]")
    parser.add_argument("--file", type=Path, default=other.ROWS, help="HellaSwag's rows [../shared's sample]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    parser.add_argument("--batch-size", type=int, default=8, help="of the hf model [8]")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of both models [fp32]")
    parser.add_argument("--device", default="cpu", help="[cpu]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="output types [all]")
    parser.add_argument("--tiny", action="store_true", help="a small model instead of 124M")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    from lm_eval.models.huggingface import HFLM

    from pealm_gpt2.convert import export_folder
    from pealm_lm_eval.model import PealmLM

    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        os.environ["HF_HOME"] = str(temp / "home")
        rows = temp / "rows.jsonl"
        rows.write_text(
            "".join(args.file.read_text(encoding="utf-8").splitlines(True)[: args.rows]), encoding="utf-8"
        )
        other.random_checkpoint(temp / "pealm", other.TINY if args.tiny else {})
        export_folder(temp / "pealm", temp / "hf")
        dtype = DTYPES[args.dtype]
        theirs = HFLM(str(temp / "hf"), device=args.device, dtype=dtype, batch_size=args.batch_size)
        ours = PealmLM(str(temp / "pealm"), device=args.device, dtype=args.dtype)
        for kind in args.kinds:
            requests, answers = requests_of(kind, rows), dict[str, Any]()
            output = KINDS[kind].get("output_type", kind)
            method = "loglikelihood" if output == "multiple_choice" else output
            seconds: dict[str, list[float]] = {"hf": [], "pealm": []}
            spent: dict[str, list[float]] = {"hf": [], "pealm": []}  # processor's time
            for number in range(args.rounds):
                both = [("hf", theirs), ("pealm", ours)]
                for label, model in both if number % 2 else both[::-1]:
                    began, cpu = time.perf_counter(), time.process_time()
                    answers[label] = getattr(model, method)(requests)
                    seconds[label].append(time.perf_counter() - began)
                    spent[label].append(time.process_time() - cpu)
            ratios, of_cpu = ([a / b for a, b in zip(t["hf"], t["pealm"], strict=True)] for t in (seconds, spent))
            speeds = ", ".join(f"{k} {len(requests) / statistics.median(s):.1f}/s" for k, s in seconds.items())
            apart = difference(kind, answers["pealm"], answers["hf"])
            print(
                f"{kind:<22} {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), "
                f"{statistics.median(of_cpu):.2f} of CPU time: {speeds}; {apart}",
                flush=True,
            )


if __name__ == "__main__":
    main()
