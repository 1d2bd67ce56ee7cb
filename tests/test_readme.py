"""Every command and every Python example of the README runs. Long commands are shortened here, for all to see."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Run elsewhere: the set-up by tests/setup, and by whoever runs this test.
ELSEWHERE = ("scripts/quickstart", "scripts/test")
# What makes a long command short: (pattern, replacement) on the command.
GPT2 = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --model.block-size 16 --batch-size 4 --warmup-steps 1 --eval-tokens 200"
SHORTER = [
    (r"^pealm train char-bigram .*", r"\g<0> --steps 20 --eval-tokens 2000"),
    (r"^pealm train char-transformer (?!.*--print-config).*--input.tinyshakespeare.*", r"\g<0> --steps 12 --eval-tokens 2000"),
    (r"^pealm train .*--input.kindergarten.*", r"\g<0> --max-seconds 3 --input.stories 200 --eval-tokens 2000"),
    (r"^pealm --plugin .* train .*--input.tinyshakespeare.*", r"\g<0> --steps 12 --eval-tokens 2000"),
    (r"--steps 3100", "--steps 14"),
    (r"^pealm eval .*kindergarten$", r"\g<0> --eval.stories 4"),
    (r"^pealm eval .*kindergarten-questions$", r"\g<0> --eval.questions 8"),
    (r"^pealm eval gpt2.*", r"\g<0> --limit 4 --eval.file hellaswag.jsonl"),
    (r"^pealm eval gpt2-pretrained.*", r"\g<0> --model.path openai"),
    (r"^python scripts/hellaswag.py.*", "true"),  # a download; tests/hellaswag has a hub of its own
    (r"-n (300|10000)$", "-n 20"),
    # GPT-2: local text instead of FineWeb's, a model that we made ourselves instead of OpenAI's, a small one.
    (r"^python scripts/fineweb.py", r"\g<0> --source parquet --limit 3000 --workers 1"),
    (r"^pealm train gpt2$", rf"\g<0> {GPT2} --steps 2 --out runs/gpt2"),
    (r"^(torchrun .*train gpt2 .*?)( --steps 38146)?$", rf"\1 {GPT2} --steps 2"),
    (r"--nproc_per_node=8", "--nproc_per_node=2"),
    (r"--nnodes=2 --node_rank=0 --master_addr=10.0.0.1", "--nnodes=1 --node_rank=0 --master_addr=127.0.0.1"),
    (r"--micro-batch-size 32", "--micro-batch-size 2"),
    (r"^pealm sample gpt2-pretrained .*", r"\g<0> --model.path openai"),
    (r"--init gpt2-pretrained(.*)", r"--init runs/gpt2\1 --batch-size 4 --steps 1 --eval-tokens 100"),
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [" ".join(line.split("  # ")[0].split()) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shorter(command: str) -> str:
    for pattern, replacement in SHORTER:
        command = re.sub(pattern, replacement, command)
    return command


def make_parquet(folder: Path, text: Path) -> None:
    """What the hub would have sent: documents in a column `text`."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    documents = text.read_text()[:60_000].split("\n\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": documents}), folder / "000_00000.parquet")


def make_weights(folder: Path) -> None:
    """A small model where OpenAI's would be."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2)).save_pretrained(folder)


def test_every_command_in_order(tmp_path: Path, shakespeare: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(shakespeare, cache / "tinyshakespeare.txt")  # what the first run would have downloaded
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "weights", tmp_path / "weights")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    make_parquet(tmp_path / "parquet", shakespeare)
    make_weights(tmp_path / "openai")
    (tmp_path / "hellaswag.jsonl").symlink_to(shakespeare.parent / "hellaswag_val_sample.jsonl")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **os.environ,
        "PEALM_CACHE": str(cache),
        "PATH": path,
        "TIKTOKEN_CACHE_DIR": str(shakespeare.parent / "tiktoken"),
    }
    run = 0
    for command in commands():
        if command.startswith(ELSEWHERE):
            assert (ROOT / command.split()[0]).exists() or not command.startswith("scripts/")
            continue
        done = subprocess.run(
            ["bash", "-c", shorter(command)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        run += 1
    assert run >= 10
    code = "\n".join(block for block in blocks("python") if "hookimpl" not in block).replace("100", "5")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ROMEO:" in done.stdout and "3.0 3.0" in done.stdout


def test_the_plugin_example_is_a_plugin(stranger) -> None:  # type: ignore[no-untyped-def]
    from pealm_core.plugins.host import PluginHost

    (source,) = (block for block in blocks("python") if "hookimpl" in block)
    stranger("pealm-mine", source)
    plugin = next(p for p in PluginHost.installed().plugins if p.dist == "pealm-mine")
    assert (plugin.status, [r.name for r in plugin.records]) == ("ok", ["mine"]), plugin.reason


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


INLINE = sorted(
    set(re.findall(r"`((?:pealm|python|scripts/)[^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL)))
)


@pytest.mark.parametrize("command", [command for command in INLINE if command.startswith("pealm ")])
def test_a_command_in_a_sentence_is_one(command: str, pealm) -> None:  # type: ignore[no-untyped-def]
    assert pealm(*command.split()[1:], "--help").code == 0


@pytest.mark.parametrize("command", [command for command in INLINE if "scripts/" in command])
def test_a_script_in_a_sentence_has_these_options(command: str) -> None:
    words = command.removeprefix("python ").split()
    source = (ROOT / words[0]).read_text(encoding="utf-8")
    assert all(word in source for word in words[1:] if word.startswith("--"))


@pytest.mark.parametrize(
    "promise",
    [
        r"pealm sample char-transformer --ckpt \S+ --tokenizer-dir \S+ -n 10000",
        r"pealm sample gpt2-pretrained",
        r"pealm sample gpt2 --ckpt \S+ --no-stream",
        r"pealm train gpt2",
        r"torchrun --standalone --nproc_per_node=8 -m pealm train gpt2 --input.npy-shards \S+ "
        r"--micro-batch-size 32 --save-every 5000 --steps 38146",
        r"torchrun --nnodes=2 --node_rank=0 .* -m pealm train gpt2 --input.npy-shards \S+ "
        r"--micro-batch-size 32 --save-every 5000 --steps 38146 --out \S+",
        r"pealm eval gpt2-pretrained",
        r"pealm eval gpt2 --ckpt \S+",
        r"python scripts/fineweb.py",
        r"python scripts/hellaswag.py",
        r"pealm --version",
    ],
)
def test_what_was_promised_is_there(promise: str) -> None:
    assert any(re.fullmatch(promise + "( .*)?", command) for command in commands())
