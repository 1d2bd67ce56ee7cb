"""The weights in weights/: trains a model by `pealm train`, converts it by `pealm convert`, and writes its card.

    python scripts/weights.py                              # all that weights/ has not
    python scripts/weights.py char-bigram sprout-stories   # these, again

Its run is runs/weights/NAME; an interrupted one resumes there, and a finished one is not trained again. Weights are
fp16 where the validation loss moves by less than 0.0001 of a nat, else fp32. tinyshakespeare is taken from pealm's
cache, to which the first run downloads it.
"""

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import pealm_core
from pealm_core.data.token_stream import Split
from pealm_core.data.windows import FixedWindows
from pealm_kindergarten.dataset import Kindergarten
from pealm_tinyshakespeare.dataset import Tinyshakespeare

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS, RUNS = ROOT / "weights", ROOT / "runs" / "weights"
MOVED = 1e-4  # nats per token that fp16 may cost
RECORDED = 1e-3  # nats per token that fp32 may differ from a validation under bf16
PEALM = [sys.executable, "-m", "pealm"]
DATA = {
    "tinyshakespeare": "tinyshakespeare, a million characters of Shakespeare, collected by Andrej Karpathy; the "
    "plays are in the public domain, his repository has the MIT licence",
    "kindergarten": "stories from the grammar of pealm-kindergarten (`--input.kindergarten`, seed 1); made by this "
    "project, MIT licence",
    "kindergarten-questions": "stories from the grammar of pealm-kindergarten, and questions about them "
    "(`--input.kindergarten-questions`, seed 1); made by this project, MIT licence",
}
GPT2 = "--model.n-layer 4 --model.n-head 4 --model.n-embd 192 --model.block-size 128"


@dataclass(frozen=True)
class Shipped:
    """One of the models. train: what follows `pealm train`; sample: what follows `pealm sample --ckpt PATH`.

    first: what follows `pealm train` for the run NAME-first, with whose weights this one begins.
    """

    title: str
    data: str
    train: str
    sample: str = '--prompt "ROMEO:" -n 300 --temperature 0.8 --seed 1'
    first: str = ""

    @property
    def evaluation(self) -> str:
        """What follows `pealm eval --ckpt PATH`."""
        return f"--on {self.data}" if "kindergarten" in self.data else f"--on perplexity --input.{self.data}"

    @property
    def why(self) -> str:
        """Why the evaluation's loss is another one than the validation loss."""
        if self.data == "kindergarten-questions":
            return "Windows hold whole conversations; the loss covers only the tokens of the answers."
        if self.data == "kindergarten":
            return "The evaluation below is per character and scores each story from its beginning."
        return "The evaluation below gives most tokens a longer context, so its loss is lower, except for a bigram."

    def documents(self) -> Iterable[str]:
        """The validation text."""
        return (Kindergarten() if self.data == "kindergarten" else Tinyshakespeare()).documents("val")


MODELS = {
    "char-bigram": Shipped(
        "A table: how likely each character follows each other one",
        "tinyshakespeare",
        "char-bigram --input.tinyshakespeare",
    ),
    "char-transformer": Shipped(
        "A plain transformer over characters", "tinyshakespeare", "char-transformer --input.tinyshakespeare"
    ),
    "sprout-shakespeare": Shipped(
        "The best character model here",
        "tinyshakespeare",
        "sprout --preset laptop --input.tinyshakespeare --eval-every 500 --steps 2000",
    ),
    "sprout-stories": Shipped(
        "A model that writes short stories, the example at the top of the README",
        "kindergarten",
        "sprout --preset tiny --input.kindergarten --tokenizer bpe --eval-tokens 20000 --steps 2000",
        "-n 80 --num-samples 3 --seed 1",
    ),
    "sprout-kindergarten": Shipped(
        "A model that tells short stories and answers questions about them",
        "kindergarten-questions",
        "sprout --preset chat --init sprout-kindergarten-first --input.kindergarten-questions --input.questions 5 "
        "--input.retold 0.6 --batch-size 8 --dtype fp32 --eval-tokens 20000 --eval-every 0 --steps 2500",
        "-n 80 --num-samples 3 --seed 1",
        "sprout --preset reader --input.kindergarten-questions --input.learn everything --input.retold 0.5 "
        "--input.stories 40000 --tokenizer bpe --tokenizer.vocab-size 1280 --dtype fp32 --eval-tokens 20000 "
        "--eval-every 0 --steps 2000",
    ),
    "gpt2-shakespeare": Shipped(
        "A small GPT-2 over byte pairs",
        "tinyshakespeare",
        f"gpt2 --input.tinyshakespeare --tokenizer bpe {GPT2} --batch-size 8 --micro-batch-size 8 --lr 2e-3 "
        "--warmup-steps 100 --eval-every 200 --steps 1600",
        '--prompt "ROMEO:" -n 120 --temperature 0.8 --seed 1',
    ),
}


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    names = parser.parse_args().names or [name for name in MODELS if not (WEIGHTS / name).exists()]
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"no such weights: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    for name in names:
        make(name, MODELS[name])


def make(name: str, shipped: Shipped) -> None:
    """Train, convert and describe one model; what weights/ had of it is replaced at the end."""
    run = RUNS / name
    RUNS.mkdir(parents=True, exist_ok=True)
    for out, train in ((f"{name}-first", shipped.first), (name, shipped.train)):
        options = [] if (RUNS / out / "config.toml").exists() else shlex.split(train)  # a run knows its own
        if train:
            print(f"$ {shlex.join(['pealm', 'train', *options, '--out', out])}", flush=True)
            subprocess.run([*PEALM, "train", *options, "--out", out], check=True, cwd=RUNS)
    with tempfile.TemporaryDirectory() as folder:
        made = convert(run, Path(folder), shipped)
        (made / "README.md").write_text(card(name, shipped, made, run), encoding="utf-8")
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        shutil.copytree(made, WEIGHTS / name)
    print(f"wrote {(WEIGHTS / name).relative_to(ROOT)}, {size(WEIGHTS / name) / 1e3:,.0f} kB", flush=True)


def convert(run: Path, folder: Path, shipped: Shipped) -> Path:
    """The run's best weights in `folder`, in the smaller precision if the loss allows it."""
    losses = {}
    for dtype in ("fp32", "fp16"):
        subprocess.run([*PEALM, "convert", str(run), str(folder / dtype), "--dtype", dtype], check=True)
        losses[dtype] = loss(folder / dtype, shipped)
    if abs(losses["fp32"] - recorded_loss(folder / "fp32")) > RECORDED:
        sys.exit(f"{run}: the weights do not have the validation loss that was recorded")
    moved = losses["fp16"] - losses["fp32"]
    print(f"fp16: the validation loss moves by {moved:+.6f}")
    return folder / ("fp16" if abs(moved) < MOVED else "fp32")


def recorded_loss(weights: Path) -> float:
    """The validation loss when the weights were saved, nats per token."""
    return float(json.loads((weights / "state.json").read_text())["val_loss"])


def loss(weights: Path, shipped: Shipped) -> float:
    """The validation loss, nats per token."""
    if shipped.data != "kindergarten-questions":
        return validation_loss(weights, shipped.documents())
    with tempfile.TemporaryDirectory() as folder:  # rows of conversations: another run begins with validating them
        start = ["--config", f"{weights}/config.toml", "--init", str(weights), "--out", f"{folder}/run"]
        subprocess.run([*PEALM, "train", *start, "--dtype", "fp32", "--steps", "1"], check=True, capture_output=True)
        return float(json.loads(Path(folder, "run", "run.json").read_text())["first_val_loss"])


@torch.inference_mode()
def validation_loss(weights: Path, documents: Iterable[str]) -> float:
    """The loss as the trainer's validation takes it: blocks side by side, at most --eval-tokens, nats per token."""
    lm = pealm_core.load(weights, device="cpu")
    start = [] if lm.eot_id is None else [lm.eot_id]
    ids = [i for text in documents for i in (*start, *lm.encode(text))]
    windows = FixedWindows(Split([torch.tensor(ids).numpy()]), lm.model.config.block_size)  # type: ignore[arg-type,union-attr]
    count = min(len(windows), max(1, lm.config["train"]["eval-tokens"] // windows.block_size))
    places = [i * len(windows) // count for i in range(count)]
    total = 0.0
    for begin in range(0, count, 64):
        rows = windows.rows(places[begin : begin + 64])
        total += float(lm.model(rows["idx"], rows["targets"])[1]) * len(rows["idx"])
    return float(total / count)


def card(name: str, shipped: Shipped, made: Path, run: Path) -> str:
    """What there is to say about the weights."""
    state = json.loads((made / "state.json").read_text())
    lm = pealm_core.load(made, device="cpu")
    parameters = sum(p.numel() for p in lm.model.parameters())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    precision = {"float32": "fp32", "bfloat16": "bf16"}[json.loads((run / "run.json").read_text())["dtype"]]
    unit = "character" if lm.config["tokenizer"]["name"] == "char" else "token"
    sample, evaluation = (
        output(*words, made) for words in (("sample", shipped.sample), ("eval", shipped.evaluation))
    )
    path = f"weights/{name}"
    before = f"`pealm train {shipped.first} --out {name}-first`, then " if shipped.first else ""
    return f"""# {name}

{shipped.title}.

- **Data**: {DATA[shipped.data]}.
- **Trained by** {before}`pealm train {shipped.train}`; `pealm train --config {path}/config.toml --dtype {precision}`
  repeats {"the second" if shipped.first else "it"}.
- **Steps**: {last["step"]:,}, in about {last["seconds"]:.0f} s on {torch.get_num_threads()} thread(s) of a shared
  {processor()}; the weights are those after step {state["step"]:,}, which had the lowest validation loss.
- **Validation loss**: {state["val_loss"]:.4f} nats per {unit} ({state["first_val_loss"]:.4f} before the first step),
  on windows of the text. {shipped.why}
- **Size**: {parameters:,} parameters in {made.name}, {size(made) / 1e3:,.0f} kB.

`pealm eval --ckpt {path} {shipped.evaluation}`

```
{evaluation}
```

`pealm sample --ckpt {path} {shipped.sample}`

```
{sample}
```
"""


def output(command: str, options: str, weights: Path) -> str:
    """What a command prints about the weights."""
    words = [*PEALM, command, "--ckpt", str(weights), *shlex.split(options)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "an unknown processor"


if __name__ == "__main__":
    main()
