"""The settings of the evaluation."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class LMEvalConfig:
    """Which tasks, and how they become text; the names are the harness's."""

    tasks: tuple[str, ...] = setting((), "tasks or groups of them, as `lm_eval ls tasks` lists them")
    num_fewshot: int | None = setting(None, "solved examples before each question (default: the task's)", at_least=0)
    include_path: Path | None = setting(None, "folder with more tasks, as YAML files")
    apply_chat_template: bool = setting(False, "ask in the model's chat template")
    system_instruction: str | None = setting(None, "system message, or text before each prompt")
    gen_kwargs: str | None = setting(None, "options of generation: temperature=0.8,do_sample=true")
    details: bool = setting(False, "each question's answers and metrics in the file of --output")
    limit: int | None = setting(None, at_least=1, hidden=True)  # pealm eval --limit
