"""The phrases that CONTRIBUTING rules out, since they read as translated, are nowhere in what people read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
PAGES += [path for folder in ("pea", "pealm_core", "plugins") for path in (ROOT / folder).rglob("*.md")]
CODE = [path for folder in ("pea", "pealm_core", "plugins") for path in (ROOT / folder).rglob("*.py")]
# Phrase → what to say.
PHRASES = {
    r"as small as it can be said": "minimal",
    r"[Ll]et a model write": "Generate text",
    r"comes? for nothing": "you get for free",
    r"no user can mend": "this is a bug in the plugin",
    r"\bis no (checkpoint|run)\b": "is not a checkpoint",
    r"\bstep at hand\b": "current step",
    r"\bknows of itself\b": "plain words",
    r"\bwhat is not left out is on\b": "enable every optimization not listed",
    r"\bsees at once\b": "context length in tokens",
    r"\blearns best by\b": "tuned hyperparameters",
    r"\bis waited for\b": "blocks",
    r"\bof AMD's\b": "AMD CPUs",
    r"\bdecay.share\b": "fraction",
    r"\bwhat (beats|runs look like)\b": "save if better; compare runs",
}
ON_PAGES = {r"\w, too[.,;)]": "also", r"\bto go on from\b": "resume", r"\bwhole checkpoint\b": "complete checkpoint"}


@pytest.mark.parametrize(("phrase", "instead"), [*PHRASES.items(), *ON_PAGES.items()])
def test_a_phrase_is_not_used(phrase: str, instead: str) -> None:
    for path in PAGES if phrase in ON_PAGES else [*PAGES, *CODE]:
        match = re.search(phrase, path.read_text(encoding="utf-8"))
        assert match is None, f"{path.relative_to(ROOT)}: {match[0]!r}; say: {instead}"
