"""tinyshakespeare: local, downloaded from a server on this machine, and offline."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pealm_core import UserError, cache_root
from pealm_tinyshakespeare.config import TinyshakespeareConfig
from pealm_tinyshakespeare.dataset import Tinyshakespeare


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))


class Server(http.server.BaseHTTPRequestHandler):
    body, requests, broken = b"", 0, False

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[:1000] if self.broken else self.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(shakespeare: Path) -> Iterator[str]:
    Server.body, Server.requests, Server.broken = shakespeare.read_bytes(), 0, False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/input.txt"
        httpd.shutdown()
        thread.join()


def test_a_local_copy(shakespeare: Path) -> None:
    data = Tinyshakespeare(TinyshakespeareConfig(shakespeare))
    assert [len(next(data.documents(split))) for split in ("train", "val")] == [1_003_854, 111_540]


def test_it_is_downloaded_once(server: str) -> None:
    data = Tinyshakespeare(url=server)
    data.prepare()
    assert next(data.documents("train")).startswith("First Citizen:")
    assert len(next(Tinyshakespeare(url=server).documents("val"))) == 111_540
    assert Server.requests == 1
    assert [p.name for p in cache_root().iterdir()] == ["tinyshakespeare.txt"]


def test_a_broken_download_is_an_error_and_leaves_nothing(server: str) -> None:
    Server.broken = True
    with pytest.raises(UserError, match="downloaded"):
        next(Tinyshakespeare(url=server).documents("train"))
    Server.broken, Server.body = False, b"something else"
    with pytest.raises(UserError, match="14 bytes that are not tinyshakespeare"):
        next(Tinyshakespeare(url=server).documents("train"))
    assert list(cache_root().iterdir()) == []


def test_offline_without_a_copy_says_so_in_one_line() -> None:
    with pytest.raises(UserError, match=r"can't be downloaded .* --input.tinyshakespeare FILE") as error:
        next(Tinyshakespeare(url="http://127.0.0.1:9/").documents("train"))
    assert "\n" not in str(error.value)


def test_another_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("To be or not to be")
    with pytest.raises(UserError, match="is not tinyshakespeare"):
        next(Tinyshakespeare(TinyshakespeareConfig(tmp_path / "x.txt")).documents("train"))
    with pytest.raises(UserError, match="can't be read"):
        next(Tinyshakespeare(TinyshakespeareConfig(tmp_path / "none.txt")).documents("train"))
