"""Published weights: from the Hugging Face hub through its client and its cache, or from a local folder."""

import dataclasses
import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from pealm_core import UserError, cache_root, load_tokenizer
from pealm_formats.folders import CONFIG, INDEX, WEIGHTS, indexed
from pealm_formats.gguf_file import GGUF
from pealm_formats.gguf_vocabulary import write_vocabulary
from pealm_formats.vocabulary import SETTINGS, TEMPLATE, VOCABULARY
from pealm_llama.config import LlamaConfig, PretrainedConfig
from pealm_llama.gguf_file import read_gguf
from pealm_llama.layout import read_folder


def pretrained(config: PretrainedConfig) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Return config and state dict of the weights that the settings name. Raises UserError.

    Embedding rows without a token are left out, where the folder has its tokenizer.
    """
    folder, place, tokens = _folder(config, weights=True), vocabulary(config), None
    if place is not None:
        tokens = load_tokenizer({"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}, place).vocab_size
    own, state = read_gguf(folder, tokens) if folder.is_file() else read_folder(folder, tokens)
    return dataclasses.replace(own, block_size=min(config.block_size, own.block_size)), state


def vocabulary(config: PretrainedConfig) -> Path | None:
    """Return the folder with the tokenizer of the weights, if it has one. Raises UserError."""
    folder = _folder(config)
    if folder.is_file():
        return _of_gguf(folder)
    return folder if (folder / VOCABULARY).is_file() else None


def _of_gguf(path: Path) -> Path:
    """Return a folder in pealm's cache with the tokenizer of a GGUF file."""
    facts = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()
    folder = cache_root() / "gguf" / key[:32]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            write_vocabulary(GGUF(path), aside)
            with suppress(OSError):  # another process was faster
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _folder(config: PretrainedConfig, *, weights: bool = False) -> Path:
    """Return the folder that the settings name, of the hub with config and tokenizer, or also with the weights."""
    if config.path is not None:
        if not config.path.is_file() and not (config.path / CONFIG).exists():
            raise UserError(f"{config.path} has no {CONFIG}")
        return config.path
    if config.repo is None:
        raise UserError("llama-pretrained needs --model.repo NAME or --model.path DIR")
    path = _download(config.repo, config.revision, CONFIG)
    assert path is not None  # it is required
    commit = path.parent.name  # so that all files are of one commit; one that is in the cache needs no network
    for name in (VOCABULARY, SETTINGS, TEMPLATE):
        _download(config.repo, commit, name, optional=True)
    if weights and _download(config.repo, commit, WEIGHTS, optional=True) is None:
        index = _download(config.repo, commit, INDEX)
        for name in indexed(index) if index else ():
            _download(config.repo, commit, name)
    return path.parent


def _download(repo: str, revision: str, name: str, *, optional: bool = False) -> Path | None:
    """Return a file in the hub's cache, downloaded if needed; None if it is optional and the repository lacks it."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,  # of the client's HTTP library, whichever that is
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except GatedRepoError:
        reason = f"its owners give it on request only: ask at https://huggingface.co/{repo}, then `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository"
    except RevisionNotFoundError:
        reason = f"the hub has no revision {revision}"
    except RemoteEntryNotFoundError:
        if optional:
            return None
        reason = "the hub has no such file"
    except LocalEntryNotFoundError:
        known = try_to_load_from_cache(repo, name, revision=revision)
        if optional and known is not None and not isinstance(known, str):  # the hub was asked, and had none
            return None
        offline = constants.HF_HUB_OFFLINE
        reason = f"{'HF_HUB_OFFLINE is set' if offline else 'no connection'}, and it is not in the hub's cache"
    except HFValidationError:
        reason = "a repository is called OWNER/NAME"
    except (HTTPError, OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(
        f"{repo}/{name} can't be downloaded: {reason}; try again, or give a local folder: --model.path DIR"
    )
