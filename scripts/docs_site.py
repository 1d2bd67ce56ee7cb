"""Bring files from outside of docs/ into the site, and make links to them work; mkdocs runs this as a hook.

The READMEs of the distributions become pages of the plugin directory, CHANGELOG.md and CONTRIBUTING.md pages of their
own. A link to a file that is not in the site becomes one to the repository, if `repo_url` is set, else its text.
"""

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
OUTPUT = re.compile(r"^<!-- output[^>]*-->\n+```text\n", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")


def distributions() -> dict[str, dict[str, Any]]:
    """Map the folder of each distribution to the `project` table of its pyproject.toml."""
    folders = ["pea", "pealm_core", *sorted(f"plugins/{p.name}" for p in (ROOT / "plugins").iterdir())]
    files = {folder: ROOT / folder / "pyproject.toml" for folder in folders}
    return {f: tomllib.loads(p.read_text(encoding="utf-8"))["project"] for f, p in files.items() if p.is_file()}


def on_files(files: Any, config: Any) -> Any:
    """Add pages and pictures to the site."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        if source != "README.md":
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=moved(text, source, page, config.repo_url)))
    for folder in distributions():
        source, page = f"{folder}/README.md", page_of(folder)
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=moved(text, source, page, config.repo_url)))
    files.append(File.generated(config, "reference/plugins.md", content=directory()))
    for picture in sorted((ROOT / "media").glob("*.svg")):
        files.append(File.generated(config, f"media/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page in docs/ that lead out of it, and mark what commands printed."""
    if page.file.generated_by:
        return markdown
    markdown = OUTPUT.sub("``` { .text .output }\n", markdown)
    return moved(markdown, f"docs/{page.file.src_uri}", page.file.src_uri, config.repo_url)


def moved(text: str, source: str, page: str, repo_url: str | None) -> str:
    """Return the text of a file in the repository with links that fit its place in the site."""
    here = posixpath.dirname(page)

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target) or not path:
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        new = in_site(place)
        if new is None:
            return f"[{words}]({repo_url}/blob/main/{place})" if repo_url else words
        return f"{image}[{words}]({posixpath.relpath(new, here)}{'#' if anchor else ''}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def in_site(place: str) -> str | None:
    """Return where a file of the repository is in the site, None if it is not."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    if place in PAGES:
        return PAGES[place]
    folder = place.removesuffix("/README.md")
    if (ROOT / folder / "pyproject.toml").is_file() and folder != ".":
        return page_of(folder)
    return place if place.startswith("media/") and place.endswith(".svg") else None


def page_of(folder: str) -> str:
    """Return the page of a distribution's README."""
    return f"reference/plugins/{posixpath.basename(folder).replace('pealm_core', 'core')}.md"


def directory() -> str:
    """Return the plugin directory, from the metadata of the distributions."""
    everything = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = [
        "# Plugins\n",
        "The distributions of this repository. `pip install pealm` brings all of them that are not marked, and "
        "`pealm plugins` lists what is installed. A package of yours is found the same way: "
        "[Write a plugin](../plugins.md).\n",
        "| distribution | what | version |",
        "|---|---|---|",
    ]
    for folder, project in distributions().items():
        page = posixpath.relpath(page_of(folder), "reference")
        marked = "" if any(line.startswith(project["name"]) for line in everything) else "; install it separately"
        summary = project["description"].removesuffix(" for pealm").replace("|", "\\|")
        lines.append(f"| [{project['name']}]({page}) | {summary}{marked} | {project['version']} |")
    return "\n".join(lines) + "\n"
