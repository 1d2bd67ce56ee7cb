"""Make a Jupyter notebook of each page of the tutorial, with the outputs that the page shows.

    python scripts/docs_notebooks.py notebooks      # into this folder; then, in the clone: jupyter lab notebooks

mkdocs runs this as a hook: each page of the tutorial links to its notebook.
"""

import argparse
import base64
import re
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
from nbformat.v4 import new_output

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
NAMES = ("neuron", "bigram", "attention", "transformer", "gpt2", "finetune", "chat", "look-inside")
FILE = re.compile(r'^```python title="([\w.-]+)"\n', re.MULTILINE)
SHELL = re.compile(r"^```sh\n", re.MULTILINE)
PRINTED = re.compile(r"^```sh\n(.*?)^```\n\n*<!-- output[^>]* -->\n+```text\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
MARK = "\n# output"
ANSWER = re.compile(r'^\?\?\? success "Answer"\n((?:(?: {4}.*)?\n)+)', re.MULTILINE)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+/)([\w-]+\.svg)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)")
START = """```python
import os, pathlib, shutil

os.environ["NO_COLOR"] = "1"
while not pathlib.Path("weights").is_dir() and pathlib.Path.cwd().parent != pathlib.Path.cwd():
    os.chdir("..")  # the commands run in the folder of the clone
assert pathlib.Path("weights").is_dir(), "save this notebook in the clone of pealm"
assert shutil.which("pealm"), "activate the environment of the clone, .venv, and start Jupyter again"
```

"""


def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks to the site."""
    from mkdocs.structure.files import File

    for name in NAMES:
        files.append(File.generated(config, f"tutorial/{name}.ipynb", content=notebook(TUTORIAL / f"{name}.md")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Link a page of the tutorial to its notebook, beside the time."""
    name = page.file.src_uri.removeprefix("tutorial/").removesuffix(".md")
    if page.file.src_uri != f"tutorial/{name}.md" or name not in NAMES:
        return markdown
    link = f"[This page as a notebook]({name}.ipynb){{ download }}"
    return re.sub(r"^(\*Time on .*\*)$", rf"\1 {link}", markdown, count=1, flags=re.MULTILINE)


def notebook(page: Path) -> str:
    """Return a page as the text of a notebook: files and commands are cells, pictures are part of it."""
    text = page.read_text(encoding="utf-8")
    outputs = [printed for _, printed in PRINTED.findall(text)]
    text = PRINTED.sub(rf"```sh\n\1{MARK[1:]}\n```\n", text)  # a marker keeps the places of the outputs
    text = FILE.sub(r"```python\n%%writefile \1\n", text)
    text = SHELL.sub("```python\n%%bash -e\n", text)
    text = ANSWER.sub(answer, text)
    text = LINK.sub(r"\1", text)
    title, _, rest = text.partition("\n")
    book = jupytext.reads(f"{title}\n\n{START}{rest}", fmt="md")
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    waiting = iter(outputs)
    for number, cell in enumerate(book.cells):
        cell.id = f"{page.stem}-{number}"
        if cell.cell_type == "markdown":
            attach(cell, page.parent)
        elif cell.source.endswith(MARK):
            cell.source = cell.source.removesuffix(MARK)
            shown = new_output("stream", name="stdout", text=next(waiting))  # type: ignore[no-untyped-call]
            cell.outputs = [shown]
    return str(jupytext.writes(book, fmt="ipynb")) + "\n"


def answer(match: re.Match[str]) -> str:
    """Return an answer that is shown after a click."""
    lines = [line.removeprefix("    ") for line in match[1].strip("\n").splitlines()]
    return "<details><summary>Answer</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n\n"


def attach(cell: Any, folder: Path) -> None:
    """Make the pictures of a cell part of the notebook."""
    for _, place, name in PICTURE.findall(cell.source):
        data = base64.b64encode((folder / place / name).read_bytes()).decode("ascii")
        cell.setdefault("attachments", {})[name] = {"image/svg+xml": data}
    cell.source = PICTURE.sub(r"![\1](attachment:\3)", cell.source)


def main() -> None:
    """Write all notebooks into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.ipynb").write_text(notebook(TUTORIAL / f"{name}.md"), encoding="utf-8")


if __name__ == "__main__":
    main()
