"""scripts/bench/harness.py at a tiny size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_answer_the_same(tmp_path: Path, tiktoken_files: Path) -> None:
    pytest.importorskip("lm_eval.models.huggingface", exc_type=ImportError)
    rows = tmp_path / "rows.jsonl"
    row = (
        '{"activity_label": "Roofs", "ctx_a": "A man is on a roof.", "ctx_b": "he", "ctx": "A man is on a roof. he",'
        ' "endings": ["falls off.", "flies.", "eats it.", "licks his face."], "label": 1}\n'
    )
    rows.write_text("".join(row.replace("roof", word) for word in ("roof", "horse", "hill")))
    kinds = ["multiple_choice", "few_shot", "letters", "loglikelihood_rolling", "documents", "generate_until"]
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts/bench/harness.py",
            "--tiny",
            "--rounds",
            "1",
            "--file",
            rows,
            "--kinds",
            *kinds,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(tiktoken_files)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *likelihoods, texts = done.stdout.splitlines()
    assert [line.split()[0] for line in likelihoods] == kinds[:-1]
    for line in likelihoods:
        assert "times as fast" in line and float(line.split(" differ by ")[1].split()[0]) < 1e-3
    assert texts.endswith("3 of 3 texts equal")
