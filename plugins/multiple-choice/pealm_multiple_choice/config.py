"""The settings of the evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class MultipleChoiceConfig:
    """Which questions, and how they become text."""

    file: Path | None = setting(None, "questions: a .jsonl file with question, choices and answer on each line")
    template: str = setting("{question}\nAnswer:", "prompt; {NAME} is a field of the question")
    separator: str = setting(" ", "text between the prompt and a choice")
    normalize: Literal["characters", "bytes", "tokens", "unconditional"] = setting(
        "characters", "acc_norm: log-likelihood by length, or less that of the choice after `unconditional`"
    )
    unconditional: str = setting("Answer:", "prompt without a question, for --eval.normalize unconditional")
    shots: int = setting(0, "solved questions before each one", at_least=0)
    shots_file: Path | None = setting(None, "file of these; without it the first ones of the file")
    details: bool = setting(False, "each question's scores and choice in the file of --output")
    limit: int | None = setting(None, at_least=1, hidden=True)  # pealm eval --limit

    def __post_init__(self) -> None:
        if self.shots_file is not None and not self.shots:
            raise ValueError("shots-file needs shots, the number of its questions to use")
