"""Every command and Python block of the README and of the how-to pages works. Long ones are shortened here, for all to see."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
# Not smollm2.md: it begins with a download. scripts/docs_outputs.py runs it, and test_site.py checks its options.
PAGES = sorted(page for page in (ROOT / "docs" / "howto").glob("*.md") if page.name != "smollm2.md")
HOWTO = [page for page in PAGES if "```sh" in page.read_text()]
ELSEWHERE = ("scripts/quickstart", "scripts/test", "python scripts/hellaswag.py")  # tests/setup, tests/hellaswag
# What makes a long command short: (pattern, replacement) on the command.
FEW = "--eval-tokens 1000"
GPT2 = f"--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --model.block-size 16 --batch-size 4 --warmup-steps 1 {FEW}"
SHORTER = [
    (r"^pealm (.*)train char-transformer .*", rf"\g<0> --steps 4 --eval-every 0 {FEW}"),
    (r"^pealm train --out .*", r"\g<0> --steps 6"),
    (r"--max-seconds \d+", f"--steps 3 {FEW}"),
    (r"^pealm train sprout .*--input.kindergarten.*", r"\g<0> --input.stories 60"),
    (r"^pealm train sprout (?!.*--steps).*", rf"\g<0> --steps 3 {FEW}"),
    (r"--steps (100|200)\b", f"--steps 3 {FEW}"),
    (r"^pealm eval .*kindergarten$", r"\g<0> --eval.stories 4"),
    (r"--on perplexity --input.tinyshakespeare", "--on perplexity --input.text short.txt"),
    (r"^pealm chat .*", r"\g<0> <<< Hello"),
    (r"^pealm serve .*", "pealm serve --help"),  # it would not end
    (r"^pealm eval gpt2.*", r"\g<0> --limit 4 --eval.file hellaswag.jsonl"),
    (r"^pealm eval gpt2-pretrained.*", r"\g<0> --model.path openai"),
    (r"-n (\d+)", "-n 8"),
    (r"^python scripts/fineweb.py", r"\g<0> --source parquet --limit 3000 --workers 1"),
    (r"^pealm train gpt2( --input.npy-shards shards)?$", rf"\g<0> {GPT2} --steps 2 --micro-batch-size 2"),
    (r"^pealm tokenize .*", r"\g<0> --workers 1"),
    (r"--tokenizer.vocab-size (8000|2048)", "--tokenizer.vocab-size 300"),
    (r"^(torchrun .*train gpt2 .*?)--steps 38146", rf"\1{GPT2} --steps 2"),
    (r"--nproc_per_node=8", "--nproc_per_node=2"),
    (r"--nnodes=2 --node_rank=0 --master_addr=10.0.0.1", "--nnodes=1 --node_rank=0 --master_addr=127.0.0.1"),
    (r"--micro-batch-size 32", "--micro-batch-size 2"),
    (r"^pealm sample gpt2-pretrained .*", r"\g<0> --model.path openai"),
]
# What a page supposes to be there.
SHARDS = "pealm tokenize --input.records docs.jsonl --tokenizer bpe --out data/fineweb_edu10B"
RUNS = [
    f"pealm train char-bigram --input.text book.txt --steps 2 {FEW} --out runs/{n}" for n in ("bigram", "transformer")
]
FIRST = {"README.md": [SHARDS], "cluster.md": [SHARDS], "evaluate.md": RUNS}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """Yield the commands of a page, a loop as one."""
    for block in blocks(page, "sh"):
        if "do\n" in block:
            yield block
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = " ".join(line.split("  # ")[0].split())
            if line and not line.startswith(("#", *ELSEWHERE)):
                yield line


def shorter(command: str) -> str:
    for pattern, replacement in SHORTER:
        command = re.sub(pattern, replacement, command)
    return command


def hellaswag_row(number: int) -> dict[str, Any]:
    """A row in the official format, with a text of ours."""
    context, rest = f"A man counts to {number}.", "He"
    endings = [f"says {number + n}." for n in range(1, 5)]
    label = {
        "ind": number,
        "activity_label": "Counting",
        "split": "val",
        "split_type": "indomain",
        "label": number % 4,
    }
    return {
        **label,
        "ctx_a": context,
        "ctx_b": rest,
        "ctx": f"{context} {rest}",
        "endings": endings,
        "source_id": "x",
    }


def make(folder: Path, shakespeare: Path) -> dict[str, str]:
    """Fill a folder with what the pages suppose; return the environment."""
    import pyarrow
    import pyarrow.parquet
    from transformers import GPT2Config, GPT2LMHeadModel

    for name in ("weights", "scripts", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "cache").mkdir()
    shutil.copy(shakespeare, folder / "cache" / "tinyshakespeare.txt")  # what the first run would have downloaded
    text = shakespeare.read_text()[:200_000]
    (folder / "book.txt").write_text(text[:20_000])
    (folder / "short.txt").write_text(text[:2_000])
    documents = text.split("\n\n")
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    (folder / "parquet").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": documents[:400]}), folder / "parquet" / "000_00000.parquet")
    turns = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
    talks = [json.dumps({"messages": [*turns, {"role": "user", "content": str(n)}, turns[1]]}) for n in range(80)]
    (folder / "talk.jsonl").write_text("\n".join(talks))
    (folder / "hellaswag.jsonl").write_text("\n".join(json.dumps(hellaswag_row(n)) for n in range(8)))
    GPT2LMHeadModel(GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2)).save_pretrained(folder / "openai")
    return {"PEALM_CACHE": str(folder / "cache"), "PEALM_DISABLE_PLUGINS": ""}


@pytest.mark.parametrize("page", [README, *HOWTO], ids=lambda page: page.name)
def test_every_command_works(
    page: Path, tmp_path: Path, shakespeare: Path, tiktoken_files: Path, run_block: Any
) -> None:
    env = {**make(tmp_path, shakespeare), "TIKTOKEN_CACHE_DIR": str(tiktoken_files)}
    for command in FIRST.get(page.name, []):
        run_block(shorter(command), tmp_path, env)
    seen = set(commands(README)) if page != README else set()
    for command in commands(page):
        if command not in seen:
            run_block(shorter(command), tmp_path, env)
    code = "\n".join(blocks(page, "python"))
    code = re.sub(r"steps=\d+", "steps=3, eval_tokens=1000", code).replace("=100,", "=5,")
    if code:
        (tmp_path / "page.py").write_text(code)
        run_block("python page.py", tmp_path, env)


def test_the_scripts_in_the_readme_have_these_options() -> None:
    for command in re.findall(r"`python (scripts/[^`\n]+)`", README.read_text(encoding="utf-8")):
        path, *words = command.split()
        source = (ROOT / path).read_text(encoding="utf-8")
        assert all(word in source for word in words if word.startswith("--")), command


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_a_row_of_ours_is_one_of_hellaswag(tmp_path: Path, run_block: Callable[..., str]) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(hellaswag_row(n)) for n in range(4)))
    ckpt = ROOT / "weights" / "gpt2-shakespeare"
    assert "n = 4" in run_block(f"pealm eval --ckpt {ckpt} --on hellaswag --eval.file rows.jsonl", tmp_path, {})
