"""tinyshakespeare: from a local copy, from the cache, or from its canonical address once."""

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pealm_core import UserError, cache_root
from pealm_tinyshakespeare.config import TinyshakespeareConfig

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
VAL_FRACTION = 0.1
TIMEOUT = 30  # seconds


class Tinyshakespeare:
    """The text in one piece: its first 90 % is "train", the rest "val"."""

    def __init__(self, config: TinyshakespeareConfig | None = None, *, url: str = URL) -> None:
        self.config, self.url = config or TinyshakespeareConfig(), url

    def documents(self, split: str) -> Iterator[str]:
        """The split's text, one document."""
        text = self.text()
        cut = int(len(text) * (1 - VAL_FRACTION))
        yield text[:cut] if split == "train" else text[cut:]

    def prepare(self) -> None:
        """Download the text unless it is there."""
        self.text()

    def text(self) -> str:
        """The whole text, checked against its SHA-256. Raises UserError."""
        if self.config.path is not None:
            return self._read(self.config.path)
        path = cache_root() / "tinyshakespeare.txt"
        if not path.exists():
            self._download(path)
        return self._read(path)

    def _read(self, path: Path) -> str:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"--input.tinyshakespeare {path}: can't be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise UserError(
                f"{path} is not tinyshakespeare ({len(data):,} bytes of other content); remove it, or use "
                f"--input.text {path} for a text of your own"
            )
        return data.decode("utf-8")

    def _download(self, path: Path) -> None:
        """Fetch the text to its place, whole or not at all."""
        aside = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as reply:
                data = reply.read()
            if hashlib.sha256(data).hexdigest() != SHA256:
                raise UserError(f"{self.url} gave {len(data):,} bytes that are not tinyshakespeare; try again")
            aside.write_bytes(data)
            aside.replace(path)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            raise UserError(
                f"tinyshakespeare can't be downloaded ({reason}); give a local copy: --input.tinyshakespeare FILE"
            ) from error
