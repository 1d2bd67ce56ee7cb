"""An objective: learn from the probabilities of a larger model, the teacher (Hinton et al. 2015).

    pealm train char-transformer --input.tinyshakespeare --steps 1000 --out runs/teacher
    pealm --plugin examples/distillation.py train char-transformer --input.tinyshakespeare \
        --model.n-layer 1 --model.n-embd 64 --objective distillation --objective.teacher runs/teacher \
        --steps 500 --out runs/student

The teacher must have the student's tokenizer. The two parts of the loss are in metrics.jsonl.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from pealm_core import IGNORE, ObjectiveSpec, hookimpl, load, setting


@dataclass(frozen=True)
class Config:
    teacher: Path | None = setting(None, "run or checkpoint of the teacher")
    share: float = setting(0.5, "weight of the teacher; the rest is the text's", at_least=0, at_most=1)
    temperature: float = setting(2.0, "softens both distributions", above=0)


def pieces(tokenizer):
    return [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]


class Distillation:
    def __init__(self, config, model, tokenizer):
        if config.teacher is None:  # ValueError: one line for the user
            raise ValueError("--objective.teacher RUN is missing")
        self.config, lm = config, load(config.teacher, device="cpu", dtype="fp32")
        if pieces(lm.tokenizer) != pieces(tokenizer):
            raise ValueError(f"the teacher {config.teacher} has another tokenizer")
        self.teacher = lm.model.to(next(model.parameters()).device)

    def loss(self, model, batch):
        scored, heat = batch["targets"] != IGNORE, self.config.temperature
        logits, _ = model(batch["idx"])
        with torch.no_grad():
            taught, _ = self.teacher(batch["idx"])
        # in double precision: near the teacher, their divergence is a small difference of large numbers
        logits, taught, targets = logits[scored].double(), taught[scored].double(), batch["targets"][scored]
        of_text = F.cross_entropy(logits, targets)
        logs = (logits / heat).log_softmax(-1), (taught / heat).log_softmax(-1)
        of_teacher = heat**2 * F.kl_div(*logs, log_target=True, reduction="batchmean")
        loss = (1 - self.config.share) * of_text + self.config.share * of_teacher
        return loss, {"text_loss": of_text, "teacher_loss": of_teacher}


@hookimpl
def pealm_objectives():
    yield ObjectiveSpec(name="distillation", summary="Learn from a teacher", config=Config, factory=Distillation)
