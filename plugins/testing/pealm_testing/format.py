"""Checks for formats."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from pealm_core import LM, FormatSpec, PealmError, load
from pealm_testing.base import Conformance
from pealm_testing.core import Layer, has, make_model, make_tokenizer, plan, save_checkpoint
from pealm_testing.errors import ConformanceError


class FormatConformance(Conformance):
    """A format, applied to a small checkpoint of a model that it supports.

    model, sizes: the (installed) model and its settings. texts: what its tokenizer is fitted on.
    """

    kind = FormatSpec
    model: ClassVar[str | None] = None
    sizes: ClassVar[Mapping[str, Any]] = {}
    texts: ClassVar[Any] = ("the quick brown fox jumps over the lazy dog.\n" * 8,)

    def write(self, folder: Path) -> LM:
        """Write the checkpoint that is exported, and load it."""
        if self.model is None:
            raise SkipTest("set model = ..., a model that it supports")
        tables: dict[str, Any] = {"model": {"name": self.model, **self.sizes}}
        job = plan(("model", "tokenizer"), file=Layer("the test", tables))
        tokenizer = make_tokenizer(job)
        if has(tokenizer, "fit"):
            tokenizer.fit(iter(self.texts))  # type: ignore[attr-defined]
        torch.manual_seed(0)
        model, job = make_model(job, tokenizer.vocab_size)
        with torch.no_grad():
            for p in model.parameters():  # initial zeros and ones would hide mixed-up tensors
                p.add_(0.05 * torch.randn_like(p))
        save_checkpoint(folder, model=model.state_dict(), config=job.tables(), tokenizer=tokenizer, state={"step": 1})
        return load(folder, device="cpu")

    def run(self, part: str, source: Path, target: Path) -> None:
        """Run the "exporter" or "importer"."""
        if getattr(self.entry.spec, part) is None:
            raise SkipTest(f"it has no {part}")
        self.entry.load(part)(source, target)

    def test_round_trip_gives_the_same_logits(self) -> None:
        """Catches a transposed matrix, mixed-up names, a missing tokenizer or size."""
        with _folder() as folder:
            lm = self.write(folder / "ours")
            self.run("exporter", folder / "ours", folder / "theirs")
            self.run("importer", folder / "theirs", folder / "back")
            try:
                back: Any = load(folder / "back", device="cpu")
            except PealmError as error:
                raise ConformanceError(f"the importer's checkpoint can't be loaded: {error}") from error
            config: Any = lm.model.config
            idx = torch.randint(config.vocab_size, (2, min(16, config.block_size)))
            with torch.no_grad():
                before, after = lm.model(idx)[0], back.model(idx)[0]
            if before.shape != after.shape:
                raise ConformanceError(
                    f"after export and import, logits have shape {tuple(after.shape)}, not {tuple(before.shape)}"
                )
            if not torch.allclose(before, after, atol=1e-5):
                raise ConformanceError(
                    f"after export and import, logits differ by {float((before - after).abs().max()):.2g}: compare "
                    f"the state dicts name by name, with shapes and orientation"
                )

    def test_detect_knows_its_own_folders(self) -> None:
        """Catches a `detect` that accepts every folder or raises for a damaged one."""
        if self.entry.spec.detect is None:
            raise SkipTest("it has no detect")
        with _folder() as folder:
            self.write(folder / "ours")
            self.run("exporter", folder / "ours", folder / "theirs")
            detect = self.entry.load("detect")
            if not detect(folder / "theirs"):
                raise ConformanceError("detect does not recognize what the exporter wrote")
            wrong = [folder / "ours", folder / "nothing"]
            for number, content in enumerate((b"", b"[]", b"\xff", b"[" * 100_000)):
                wrong.append(folder / str(number))
                shutil.copytree(folder / "theirs", wrong[-1])
                for path in wrong[-1].iterdir():
                    path.write_bytes(content)
            for path in wrong:
                try:
                    accepted = detect(path)
                except Exception as error:
                    raise ConformanceError(
                        f"detect raises {type(error).__name__} for a damaged folder: {error}; return False"
                    ) from error
                if accepted:
                    raise ConformanceError("detect accepts a folder whose files are damaged or not of this format")

    def test_nothing_is_overwritten(self) -> None:
        """Catches an export into a folder with other files, and a source that is changed by reading it."""
        with _folder() as folder:
            self.write(folder / "ours")
            before = _hashes(folder / "ours")
            self.run("exporter", folder / "ours", folder / "theirs")
            if _hashes(folder / "ours") != before:
                raise ConformanceError("the exporter changes the checkpoint that it reads")
            (folder / "full").mkdir()
            (folder / "full" / "diary.txt").write_text("mine")
            for part, source in (("exporter", "ours"), ("importer", "theirs")):
                try:
                    self.run(part, folder / source, folder / "full")
                except (PealmError, ValueError):
                    if [path.name for path in (folder / "full").iterdir()] != ["diary.txt"]:
                        raise ConformanceError(
                            f"the {part} refuses a folder that is not empty, but leaves files in it"
                        ) from None
                    continue
                raise ConformanceError(
                    f"the {part} writes into a folder that is not empty: raise a UserError before writing"
                )

    def test_a_wrong_folder_is_refused(self) -> None:
        """Catches a traceback for a folder of something else, and an incomplete checkpoint after it."""
        with _folder() as folder:
            (folder / "other").mkdir()
            (folder / "other" / "diary.txt").write_text("mine")
            try:
                self.run("importer", folder / "other", folder / "back")
            except (PealmError, ValueError) as error:
                if len(str(error).strip().splitlines()) != 1:
                    raise ConformanceError(f"the importer's error is not one line: {error}") from error
            except SkipTest:
                raise
            except Exception as error:
                raise ConformanceError(
                    f"the importer raises {type(error).__name__} for a folder of something else: {error}; raise a "
                    f"UserError that says which files are missing"
                ) from error
            else:
                raise ConformanceError("the importer accepts a folder without any file of its format")
            if (folder / "back").exists():
                raise ConformanceError(
                    "a failed import leaves a folder: write to a temporary name and rename when complete"
                )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
