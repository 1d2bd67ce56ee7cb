"""A dataset of conversations, of which only the assistant's turns are learned. Each line of the file is one:

[{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]

pealm --plugin examples/messages.py train char-transformer --input.messages talk.jsonl --steps 500 --out runs/talk
pealm --plugin examples/messages.py reply "Hi!" --ckpt runs/talk
"""

import json
from dataclasses import dataclass
from pathlib import Path

import click

from pealm_core import CommandSpec, DatasetSpec, Sampling, Segment, UserError, generate_ids, hookimpl, load, setting

END = "<|end|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}


@dataclass(frozen=True)
class Config:
    path: Path | None = setting(None, "file with a list of messages in each line")
    val_every: int = setting(10, "one of so many conversations is for validation", at_least=2)


class Messages:
    specials = (*ROLES.values(), END)  # pealm adds them to the tokenizer; text that spells one stays text
    packed = True  # a row of training data is filled with complete conversations

    def __init__(self, config):
        self.config = config

    def documents(self, split):
        """Yield each conversation as segments: special tokens by name, and text; `learn` says what is scored."""
        path = self.config.path
        if path is None or not path.is_file():
            raise UserError(f"--input.messages {path or 'FILE.jsonl'}: no such file")
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if (number % self.config.val_every == 0) == (split == "val"):
                    try:
                        yield [part for message in json.loads(line) for part in segments(message)]
                    except (ValueError, KeyError, TypeError) as error:
                        raise UserError(f"{path}, line {number + 1}: not a list of messages: {error!r}") from error


def segments(message):
    """The role's token and the text, then the token that ends the turn, which the assistant must learn to write."""
    learn = message["role"] == "assistant"
    yield Segment(special=ROLES[message["role"]], learn=False)
    yield Segment(message["content"], learn=learn)
    yield Segment(special=END, learn=learn)


@click.command()
@click.argument("text")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="Run or checkpoint.")
def reply(text, ckpt):
    """Print the assistant's reply to TEXT."""
    lm = load(ckpt)
    special = lm.tokenizer.specials
    prompt = [special[ROLES["user"]], *lm.encode(text), special[END], special[ROLES["assistant"]]]
    ids = []
    for (token,) in generate_ids(lm.model, prompt, Sampling(max_new_tokens=100)):  # a row of one sample
        if token == special[END]:
            break
        ids.append(int(token))
    click.echo(lm.tokenizer.decode(ids))


@hookimpl
def pealm_datasets():
    yield DatasetSpec(name="messages", summary="Conversations", config=Config, factory=Messages, value="path")


@hookimpl
def pealm_commands():
    yield CommandSpec(name="reply", summary="Answer one message", command=reply)
