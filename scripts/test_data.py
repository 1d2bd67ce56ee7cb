"""Download the real data that some tests need, once, each file checked by its SHA-256: `python scripts/test_data.py`.

It goes into data/tests, which git ignores: tinyshakespeare, and GPT-2's vocabulary as tiktoken's cache names it.
Tests that need a file skip without it. Everything else that tests need is made by them.
"""

import argparse
import hashlib
import sys
import urllib.request
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "data" / "tests"
OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# place → where it comes from, its SHA-256; tiktoken's cache names a file by the SHA-1 of its address
FILES = {
    "tinyshakespeare.txt": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    **{
        f"tiktoken/{hashlib.sha1(f'{OPENAI}/{name}'.encode()).hexdigest()}": (f"{OPENAI}/{name}", sha256)
        for name, sha256 in (
            ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
            ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
        )
    },
}


def fetch(url: str, sha256: str, path: Path) -> None:
    """Download a file to its place, complete or not at all. Raises ValueError for other content."""
    with urllib.request.urlopen(url, timeout=60) as reply:
        data = reply.read()
    if (got := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"its SHA-256 is {got}, not {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(data)
    aside.replace(path)


def main() -> None:
    """Fetch what is missing or damaged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=TARGET, help="where to put it [data/tests]")
    folder = parser.parse_args().folder
    for name, (url, sha256) in FILES.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            print(f"{path}: is there")
            continue
        try:
            fetch(url, sha256, path)
        except (OSError, ValueError) as error:
            sys.exit(f"test_data: {url}: {error}")
        print(f"{path}: downloaded")


if __name__ == "__main__":
    main()
