"""`scripts/test_data.py` downloads each file once, and refuses other content."""

import hashlib
import http.server
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 (the server makes a handler for each request)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"content of " + self.path.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Handler.asked.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("test_data", ROOT / "scripts" / "test_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["test_data", "--folder", str(tmp_path)])
    return module


def test_it_downloads_once_and_repairs(
    url: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = (f"{url}/a", hashlib.sha256(b"content of /a").hexdigest())
    monkeypatch.setattr(script, "FILES", {"sub/a": entry})
    script.main()
    script.main()
    assert (tmp_path / "sub" / "a").read_bytes() == b"content of /a"
    assert Handler.asked == ["/a"]
    (tmp_path / "sub" / "a").write_bytes(b"damaged")
    script.main()
    assert (tmp_path / "sub" / "a").read_bytes() == b"content of /a"


def test_other_content_is_refused(
    url: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "FILES", {"b": (f"{url}/b", "0" * 64)})
    with pytest.raises(SystemExit, match=r"its SHA-256 is .*, not 000"):
        script.main()
    assert [*tmp_path.iterdir()] == []


def test_the_files_are_those_of_the_tests(script: ModuleType, shakespeare: Path, tiktoken_files: Path) -> None:
    for name, (_, sha256) in script.FILES.items():
        assert hashlib.sha256((shakespeare.parent / name).read_bytes()).hexdigest() == sha256
