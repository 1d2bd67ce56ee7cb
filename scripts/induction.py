"""Draw which heads look words up: of sprout-kindergarten, and of a small model that it trains on repeated letters.

    python scripts/induction.py               # trains runs/induction, or uses it if it exists
    python scripts/induction.py --steps 50    # fewer steps

The pictures are docs/assets/lookup.svg and docs/assets/induction.svg.
"""

import argparse
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pealm_core

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "abcdefghijklmnop"
HALF = "kfbmadpgch"  # ten letters in an order that the model has never seen
STORY = "Zoe planted nine carrot seeds in the sun. She watered them every day. Up came nine lovely carrots."
QUESTION = {"role": "user", "content": STORY + " How many seeds did Zoe plant?"}
COMMON = ("There", "were", "was", "The", "the", "They")
LAST = 8  # tokens whose attention is drawn
MODEL: dict[str, Any] = {"name": "sprout", "ngram": 2, "n_layer": 2, "n_head": 4, "n_embd": 48, "block_size": 64}


def text(lines: int, seed: int = 0) -> str:
    """Lines of 8 to 12 random letters, each five times in a row."""
    rng = random.Random(seed)
    return "".join("".join(rng.choice(LETTERS) for _ in range(rng.randint(8, 12))) * 5 + "\n" for _ in range(lines))


def train(run: Path, steps: int) -> None:
    """Train the model, if the run does not exist yet."""
    if not (run / "config.toml").exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        book = run.parent / "letters.txt"
        book.write_text(text(8000))
        how: dict[str, Any] = {"lr": 0.004, "batch_size": 32, "eval_every": 50, "eval_tokens": 4000, "seed": 1}
        pealm_core.train(MODEL, {"text": str(book)}, steps=steps, optimizer="adamw", out=run, **how)


def draw(run: Path, target: Path) -> list[list[float]]:
    """Draw the attention of the best induction head; return each head's mean attention to the token after."""
    from matplotlib.figure import Figure

    lm = pealm_core.load(run)
    trace = lm.trace(HALF * 2)
    assert trace.attention is not None
    scores = trace.attention[:, :, len(HALF) :].diagonal(1, 2, 3).mean(-1)  # (L, H)
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    figure = Figure(figsize=(5, 5), facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.imshow(trace.attention[layer, head].numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(trace.tokens)), trace.tokens)
    axes.set_yticks(range(len(trace.tokens)), trace.tokens)
    axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=11)
    axes.set_xlabel("is read")
    axes.set_ylabel("reads")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    found: list[list[float]] = scores.tolist()
    return found


def draw_lookup(checkpoint: Path, target: Path) -> None:
    """Draw what the last tokens before an answer attend to, in the head that attends most to one token."""
    from matplotlib.figure import Figure

    lm = pealm_core.load(checkpoint)
    prompt = pealm_core.chat_prompt(lm.tokenizer, [QUESTION])
    trace = lm.trace([*prompt.ids, *lm.tokenizer.encode("There were")])
    assert trace.attention is not None
    layer, head = divmod(int(trace.attention[:, :, -1, 2:].amax(-1).argmax()), trace.attention.shape[1])
    figure = Figure(figsize=(9, 3.2), facecolor="white", layout="constrained")
    axes, names = figure.subplots(), [token.strip() for token in trace.tokens]
    axes.imshow(trace.attention[layer, head, -LAST:].numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(LAST), names[-LAST:], fontsize=8)
    axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=11)
    axes.set_xlabel("attended token")
    axes.set_ylabel("attending token")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})


def lookups(lm: pealm_core.LM, conversations: int) -> dict[str, list[Any]]:
    """Return, for each kind of question, the attention (L, H) to the word of the answer before it is given.

    Only the first question of each conversation, and the first word of its answer that occurs once in the prompt.
    """
    from pealm_kindergarten.dataset import conversations as talks

    config: Any = lm.model.config
    scores: dict[str, list[Any]] = {"all": []}
    for messages, asked in islice(talks("val", 987_654_321, 10**9, 3), conversations):
        prompt = pealm_core.chat_prompt(lm.tokenizer, [dict(messages[0])]).ids
        ids = [*prompt, *lm.tokenizer.encode(asked[0].answer)]
        if not asked[0].known or len(ids) > config.block_size:
            continue
        words = [lm.tokenizer.decode([i]).strip() for i in ids]
        for place in range(len(prompt), len(ids)):
            if len(words[place]) > 2 and words[place] not in COMMON and prompt.count(ids[place]) == 1:
                attention = lm.trace(ids).attention
                assert attention is not None
                for kind in ("all", asked[0].kind):
                    scores.setdefault(kind, []).append(attention[:, :, place - 1, prompt.index(ids[place])])
                break
    return scores


def repetition(lm: pealm_core.LM, half: int = 40) -> Any:
    """Return each head's mean attention (L, H) to the token after, on random tokens that are repeated once."""
    total: Any = 0
    for seed in range(20):
        attention = lm.trace(random.Random(seed).sample(range(100, lm.tokenizer.vocab_size - 20), half) * 2).attention
        assert attention is not None
        total = total + attention[:, :, half:].diagonal(1, 2, 3).mean(-1) / 20
    return total


def main() -> None:
    """Train, draw, and print the heads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "induction", help="the run's folder")
    parser.add_argument("--steps", type=int, default=700, help="training steps")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "assets" / "induction.svg", help="the second picture"
    )
    given = parser.parse_args()
    weights = ROOT / "weights" / "sprout-kindergarten"
    draw_lookup(weights, given.out.with_name("lookup.svg"))
    lm = pealm_core.load(weights)
    for kind, scores in lookups(lm, 300).items():
        means = (sum(scores) / len(scores)).flatten().tolist()
        print(f"{kind:6} {len(scores):4} questions  " + "  ".join(f"{score:.2f}" for score in means))
    print("repeated random tokens: " + "  ".join(f"{score:.3f}" for score in repetition(lm).flatten().tolist()))
    train(given.run, given.steps)
    for layer, heads in enumerate(draw(given.run, given.out), 1):
        print(f"layer {layer}: " + "  ".join(f"{score:.2f}" for score in heads))


if __name__ == "__main__":
    main()
