"""What all tests share: no test touches the user's cache, and the command line runs in this process."""

import gc
import multiprocessing
import os
import runpy
import sys
import textwrap
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores have tests of their own

hypothesis.settings.register_profile("pealm", deadline=None)  # timing has no place in a test
hypothesis.settings.load_profile("pealm")

ROOT = Path(__file__).resolve().parent.parent
# Real data: beside the repository, or where scripts/test_data.py puts it.
BESIDE = ROOT.parent / "shared" / "data"
SHARED = BESIDE if BESIDE.is_dir() else ROOT / "data" / "tests"
# Where plugins are listed, or reports looked at.
WITH_ALL = {"report", "testing", "docs", "examples", "setup", "test_plugins.py", "test_cli.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`scripts/test --slow` also runs what takes long and whose parts others test: benchmarks, proofs, the tutorial."""
    parser.addoption("--slow", action="store_true", help="run the slow tests as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests unless they are asked for."""
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: scripts/test --slow runs it"))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through torch and all tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _private_home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("PEALM_DISABLE_PLUGINS", raising=False)
    monkeypatch.setenv("PEALM_PLUGINS", "")
    if not WITH_ALL & {*request.path.relative_to(ROOT / "tests").parts}:
        monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "report")  # hundreds of runs, each with a chart at its end
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of the test that made it
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def pealm(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command line in this process: `pealm("train", "--help").out`."""
    from pealm_core.cli import main

    def run(*args: object) -> Result:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ending:
            patch.setenv("PEALM_PLUGINS", os.environ.get("PEALM_PLUGINS", ""))  # which `--plugin` extends
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(int(ending.value.code or 0), out, err)

    return run


FORKED = Path(__file__).with_name("forked.py")
PRELOADED = ["torch._dynamo", "safetensors.torch", "pealm_core.cli.command_group", "pealm_core.training.train"]


@pytest.fixture
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Result]]:
    """Run a command in processes that communicate: `ranks(2, "train", ...)`.

    They are as torchrun starts them, but forked from a process that has imported torch, which saves seconds. All write
    to the current folder. One that takes longer than 100 seconds hangs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def run(processes: int, *words: object, **env: str) -> list[Result]:
        import torch.distributed as dist

        # As torchrun's, it outlives each of them.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes)}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        place |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", **env}
        folder, running = tmp_path_factory.mktemp("ranks"), []
        for rank in range(processes):
            given = {
                "words": [str(word) for word in words],
                "out": folder / f"{rank}.out",
                "err": folder / f"{rank}.err",
            }
            given["env"] = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(context.Process(target=runpy.run_path, args=(str(FORKED), given, "forked")))
            running[-1].start()
        for process in running:
            process.join(100)
        late = [process.kill() for process in running if process.exitcode is None]
        texts = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(processes)]
        assert not late, texts
        return [Result(process.exitcode or 0, *text) for process, text in zip(running, texts, strict=True)]

    return run


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a plugin as a distribution of its own: `stranger("pealm-x", "source of its module")`."""

    def install(dist: str, source: str, *, version: str = "1.0", requires: str = "", name: str = "") -> None:
        site, module = tmp_path / f"site-{dist}", dist.replace("-", "_") + "_plugin"
        info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {dist}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requires}"] if requires else []
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[pealm]\n{name or dist.removeprefix('pealm-')} = {module}\n")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(site))
        modules.append(module)

    modules: list[str] = []
    install.also = lambda *names: modules.extend(names)  # type: ignore[attr-defined]
    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Write a plugin of one file: `local("mine", "source")` returns its path."""

    def write(stem: str, source: str) -> Path:
        path = tmp_path / f"{stem}.py"
        path.write_text(textwrap.dedent(source))
        stems.append(stem)
        return path

    before, stems = {*sys.modules}, list[str]()
    yield write
    for stem in {*stems} - before:
        sys.modules.pop(stem, None)


@pytest.fixture(scope="session")
def shakespeare() -> Path:
    """tinyshakespeare in a file."""
    path = SHARED / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("needs tinyshakespeare: python scripts/test_data.py")
    return path


@pytest.fixture(scope="session")
def tiktoken_files() -> Path:
    """A folder for TIKTOKEN_CACHE_DIR with GPT-2's vocabulary."""
    path = SHARED / "tiktoken"
    if not path.is_dir():
        pytest.skip("needs GPT-2's vocabulary: python scripts/test_data.py")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A small text with something to learn."""
    path = tmp_path / "book.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    return path


os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """A test that leaves autocast on, or another default, is named here and not by those after it."""
    yield
    if torch := sys.modules.get("torch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.9 wants another function
            precision = torch.get_float32_matmul_precision()
        left = (torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), precision)
        if left != (False, torch.float32, "highest"):
            torch.set_autocast_enabled("cpu", False)
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")
            raise AssertionError(f"autocast, default dtype, precision of products: {left}")
