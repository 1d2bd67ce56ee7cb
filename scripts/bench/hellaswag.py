"""How fast HellaSwag is evaluated, beside lm-evaluation-harness on the same weights and rows, with equal answers.

    pip install "lm-eval[hf]"
    TIKTOKEN_CACHE_DIR=... python scripts/bench/hellaswag.py [--ckpt PATH] [--rows 200]

Without a checkpoint, GPT-2 (124M) with random weights, larger than usual so that the choices vary. Both run in
processes of their own and in fp32: lm-eval's HF backend on the checkpoint as `pealm convert --to hf` writes it, at
each batch size, and `pealm eval --eval.style harness`. Timed is the scoring with its tokenization; start-up is not.
The goal is 3 times the rows per second of lm-eval's best batch size, in no more memory, and the same counts. Where
others use the machine, too, rows for a second of CPU time tell more.

`--tiny --rows 40 --save tests/hellaswag/harness.json` makes the figures that a test compares with. So does, with
`--rows 18 --file tests/hellaswag/wikihow.jsonl`, `--save tests/hellaswag/wikihow_harness.json` for rows with markers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "hellaswag_val_sample.jsonl"

TINY = {"n_layer": 4, "n_head": 4, "n_embd": 128}


def random_checkpoint(folder: Path, sizes: dict[str, int], *, scale: float = 3.0) -> None:
    """GPT-2 with random weights, each matrix `scale` times its usual size, as a weights folder."""
    import torch

    from pealm_core.checkpoints import folder as checkpoint
    from pealm_core.checkpoints.build_model import make_model
    from pealm_core.checkpoints.build_tokenizer import make_tokenizer
    from pealm_core.config.resolve_job import plan
    from pealm_core.config.toml_layers import Layer

    tables = {"model": {"name": "gpt2", **sizes}}
    job = plan(("model", "tokenizer"), file=Layer("sizes", tables))
    tokenizer = make_tokenizer(job)
    torch.manual_seed(0)
    model, job = make_model(job, tokenizer.vocab_size)
    state = {name: value * scale if value.dim() == 2 else value for name, value in model.state_dict().items()}
    checkpoint.save(folder, model=state, config=job.tables(), tokenizer=tokenizer, state={"step": 0})


def harness(folder: Path, rows: Path, batch_size: int, device: str) -> dict[str, Any]:
    """lm-eval's own hellaswag task on a local file."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(rows.parent / "hf")}
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.hellaswag.utils import process_docs

    lm = HFLM(pretrained=str(folder), device=device, dtype="float32", batch_size=batch_size)
    task = {
        "task": "hellaswag_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(rows)}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "process_docs": process_docs,
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    spent: dict[str, float] = {}
    inner = lm.loglikelihood

    def timed(requests: Any, *args: Any, **kwargs: Any) -> Any:
        begin, cpu = time.perf_counter(), time.process_time()
        result = inner(requests, *args, **kwargs)
        spent.update(seconds=time.perf_counter() - begin, cpu=time.process_time() - cpu)
        return result

    lm.loglikelihood = timed
    found = simple_evaluate(model=lm, tasks=[task], log_samples=True, bootstrap_iters=1000)
    samples = sorted(found["samples"]["hellaswag_local"], key=lambda sample: sample["doc_id"])
    return {
        **spent,
        "acc": [int(sample["acc"]) for sample in samples],
        "acc_norm": [int(sample["acc_norm"]) for sample in samples],
        "log_likelihood": [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples],
    }


def ours(folder: Path, rows: Path, device: str) -> dict[str, Any]:
    """pealm's evaluation in the same style."""
    from pealm_core import load
    from pealm_hellaswag.config import HellaSwagConfig
    from pealm_hellaswag.evaluator import HellaSwag

    lm = load(folder, device=device)
    evaluator = HellaSwag(HellaSwagConfig(style="harness", file=rows, details=True))
    begin, cpu = time.perf_counter(), time.process_time()
    result = evaluator.evaluate(lm.model, lm.tokenizer, config=lm.config, progress=lambda done, total, text: None)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu": time.process_time() - cpu,
        "acc": [int(row["choice"] == row["label"]) for row in result.details],
        "acc_norm": [int(row["choice_norm"] == row["label"]) for row in result.details],
        "log_likelihood": [row["log_likelihood"] for row in result.details],
    }


def apart(*words: object) -> dict[str, Any]:
    """What a process of its own finds, and the most memory that it took, in GB."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([sys.executable, __file__, *map(str, words), "--to", file.name], check=True)
        result: dict[str, Any] = json.loads(Path(file.name).read_text())
    return result


def show(name: str, found: dict[str, Any]) -> None:
    """A line of the table."""
    n = len(found["acc"])
    speed = f"{n / found['seconds']:>8.2f} rows/s{n / found['cpu']:>8.2f} rows/s of CPU"
    right = f"acc {sum(found['acc'])}/{n}, acc_norm {sum(found['acc_norm'])}/{n}"
    print(f"{name:<22}{speed}{found['memory']:>7.2f} GB   {right}", flush=True)


def main() -> None:
    """Measure and print, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", type=Path, help="a run or checkpoint of gpt2 [random weights]")
    parser.add_argument("--rows", type=int, default=200, help="rows, evenly spread over the file [200]")
    parser.add_argument("--file", type=Path, default=ROWS, help="HellaSwag's rows [../shared's sample]")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], help="lm-eval's [1 8 16]")
    parser.add_argument("--device", default="cpu", help="[cpu]")
    parser.add_argument("--tiny", action="store_true", help="a small model instead of 124M")
    parser.add_argument("--save", type=Path, help="write what lm-eval found as JSON")
    parser.add_argument("--only", choices=("lm-eval", "pealm"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        found = (
            harness(args.folder, args.file, args.batch_sizes[0], args.device)
            if args.only == "lm-eval"
            else ours(args.folder, args.file, args.device)
        )
        found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
        args.to.write_text(json.dumps(found))
        return
    from pealm_gpt2.convert import export_folder

    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        lines = args.file.read_text(encoding="utf-8").splitlines()
        rows = temp / "rows.jsonl"
        rows.write_text("\n".join(lines[:: max(1, len(lines) // args.rows)][: args.rows]) + "\n", encoding="utf-8")
        checkpoint = args.ckpt or temp / "random"
        if args.ckpt is None:
            random_checkpoint(checkpoint, TINY if args.tiny else {})
        export_folder(checkpoint, temp / "hf")
        same = ("--file", rows, "--device", args.device)
        mine = apart("--only", "pealm", "--folder", checkpoint, *same)
        show("pealm", mine)
        theirs = []
        for size in args.batch_sizes:
            theirs.append(apart("--only", "lm-eval", "--folder", temp / "hf", "--batch-sizes", size, *same))
            show(f"lm-eval, batch {size}", theirs[-1])
        again = apart("--only", "pealm", "--folder", checkpoint, *same)
        show("pealm again", again)
    best = min(theirs, key=lambda found: found["seconds"])
    seconds, cpu = ((mine[key] + again[key]) / 2 for key in ("seconds", "cpu"))
    worst = max(
        abs(a - b)
        for found in theirs
        for ours_, its in zip(mine["log_likelihood"], found["log_likelihood"], strict=True)
        for a, b in zip(ours_, its, strict=True)
    )
    equal = all(mine[key] == found[key] for found in theirs for key in ("acc", "acc_norm"))
    print(f"ratio to lm-eval's best: {best['seconds'] / seconds:.2f} (goal 3), of CPU time {best['cpu'] / cpu:.2f}")
    print(f"right rows: {'the same' if equal else 'NOT THE SAME'}; log-likelihoods differ by {worst:.1e} at most")
    if args.save is not None:
        figures = {key: theirs[0][key] for key in ("acc", "acc_norm")}
        figures["log_likelihood"] = [[round(value, 4) for value in row] for row in theirs[0]["log_likelihood"]]
        args.save.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(f"load of the machine before: {os.getloadavg()[2]:.1f}, now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
