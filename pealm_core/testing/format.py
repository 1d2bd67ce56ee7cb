"""What a format must do."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make_model, make_tokenizer
from pealm_core.config.job import plan
from pealm_core.config.layers import Layer
from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import has
from pealm_core.contract.specs import FormatSpec
from pealm_core.inference.lm import LM, load
from pealm_core.testing.base import Conformance


class FormatConformance(Conformance):
    """A format, tried on a small checkpoint of a model that it is for.

    model, sizes: the model and its settings. tokenizer, tokenizer_config: its tokenizer (None: the model's own).
    texts: what the tokenizer is fitted on, where it fits.
    """

    kind = FormatSpec
    model: ClassVar[str | None] = None
    sizes: ClassVar[Mapping[str, Any]] = {}
    tokenizer: ClassVar[str | None] = None
    tokenizer_config: ClassVar[Mapping[str, Any]] = {}
    texts: ClassVar[Sequence[str]] = ("the quick brown fox jumps over the lazy dog.\n" * 8,)

    def write(self, folder: Path) -> LM:
        """Write the checkpoint that is exported."""
        if self.model is None:
            raise SkipTest("model = ... would say for which model it is")
        tables: dict[str, Any] = {"model": {"name": self.model, **self.sizes}}
        if self.tokenizer is not None:
            tables["tokenizer"] = {"name": self.tokenizer, **self.tokenizer_config}
        job = plan(("model", "tokenizer"), file=Layer("the test", tables))
        tokenizer = make_tokenizer(job)
        if has(tokenizer, "fit"):
            tokenizer.fit(iter(self.texts))  # type: ignore[attr-defined]
        torch.manual_seed(0)
        model, job = make_model(job, tokenizer.vocab_size)
        with torch.no_grad():
            for p in model.parameters():  # what starts at zero or one would hide a mix-up
                p.add_(0.05 * torch.randn_like(p))
        checkpoint.save(folder, model=model.state_dict(), config=job.tables(), tokenizer=tokenizer, state={"step": 1})
        return load(folder, device="cpu")

    def export(self, source: Path, target: Path) -> None:
        """Run the exporter."""
        if self.entry.spec.exporter is None:
            raise SkipTest("it has no exporter")
        self.entry.load("exporter")(source, target)

    def bring(self, source: Path, target: Path) -> None:
        """Run the importer."""
        if self.entry.spec.importer is None:
            raise SkipTest("it has no importer")
        self.entry.load("importer")(source, target)

    def test_there_and_back_gives_the_same_logits(self) -> None:
        """Catches a transposed matrix, a mixed-up name, a tokenizer or size that is left behind."""
        with _folder() as folder:
            lm = self.write(folder / "ours")
            self.export(folder / "ours", folder / "theirs")
            self.bring(folder / "theirs", folder / "back")
            try:
                back: Any = load(folder / "back", device="cpu")
            except PealmError as error:
                raise AssertionError(f"what the importer wrote can't be loaded: {error}") from error
            config: Any = lm.model.config
            idx = torch.randint(config.vocab_size, (2, min(16, config.block_size)))
            with torch.no_grad():
                ours, again = lm.model(idx)[0], back.model(idx)[0]
            assert ours.shape == again.shape, (
                f"exported and imported, the logits have shape {tuple(again.shape)}, not {tuple(ours.shape)}"
            )
            assert torch.allclose(ours, again, atol=1e-5), (
                f"exported and imported, the logits differ by {float((ours - again).abs().max()):.2g}: compare the "
                f"state dicts name by name, shapes and orientation included"
            )

    def test_what_is_there_is_not_overwritten(self) -> None:
        """Catches an export over a folder with other things in it, and a source that is changed by being read."""
        with _folder() as folder:
            self.write(folder / "ours")
            before = _content(folder / "ours")
            self.export(folder / "ours", folder / "theirs")
            assert _content(folder / "ours") == before, "the export changes the checkpoint that it reads"
            (folder / "full").mkdir()
            (folder / "full" / "diary.txt").write_text("mine")
            for what, function, source in (
                ("exporter", self.export, folder / "ours"),
                ("importer", self.bring, folder / "theirs"),
            ):
                try:
                    function(source, folder / "full")
                except (PealmError, ValueError):
                    assert [path.name for path in (folder / "full").iterdir()] == ["diary.txt"], (
                        f"the {what} refuses a folder that holds something, and leaves something in it"
                    )
                    continue
                raise AssertionError(
                    f"the {what} writes into a folder that holds something: raise UserError before writing"
                )

    def test_a_folder_of_something_else_is_refused(self) -> None:
        """Catches a traceback where a user names the wrong folder, and half a checkpoint left behind."""
        with _folder() as folder:
            (folder / "other").mkdir()
            (folder / "other" / "diary.txt").write_text("mine")
            try:
                self.bring(folder / "other", folder / "back")
            except (PealmError, ValueError) as error:
                assert str(error) and "\n" not in str(error).strip(), f"it says more than a line: {error}"
            except SkipTest:
                raise
            except Exception as error:
                raise AssertionError(
                    f"the importer raises {type(error).__name__} on a folder of something else: {error}; raise "
                    f"UserError with what it looked for"
                ) from error
            else:
                raise AssertionError("the importer takes a folder that holds nothing of its format")
            assert not (folder / "back").exists(), "a failed import leaves a folder: write aside and rename"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
