"""Links, anchors and paths of files in everything that is written in Markdown lead somewhere. No network is used."""

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "pea", "pealm_core", "plugins", "examples", "weights")
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
PAGES += sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md") if "templates" not in page.parts)
GENERATED = {"settings", "commands", "python", "messages", "plugins", "dependencies", "changelog", "contributing"}
CODE = re.compile(
    r"`(?:python |bash )?((?:scripts|tests|examples|pealm_core|plugins|docs|weights|media)/[\w./-]*\w)`"
)
NOT_HERE = {"examples/ema.py", "examples/fsdp.py", "plugins/mine", "tests/mine"}  # earlier, or a reader's


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a repository's pages make them; `mkdocs build --strict` checks the site's."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", word).strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(page)
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|href)="([^"]+)"', text)]
    for link in links:
        if re.match(r"\w+:", link):
            assert re.match(r"https://[\w.-]+\.\w+(/\S*)?$", link), link
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if Path(path).stem in GENERATED and not target.exists():
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for path in CODE.findall(text):
        assert (ROOT / path).exists() or path in NOT_HERE, path
