"""OpenAI's weights: from the Hugging Face hub through its client and its cache, or from a local folder."""

import dataclasses
import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from pealm_core import UserError, cache_root, load_tokenizer
from pealm_formats.folders import CONFIG, WEIGHTS
from pealm_formats.ranks import VOCABULARIES, write_ranks
from pealm_gpt2.config import GPT2Config, PretrainedConfig
from pealm_gpt2.layout import read_folder, resize

# size → repository and commit. A commit that is in the cache needs no network.
HUB = {
    "small": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "medium": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "large": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "xl": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}


def pretrained(config: PretrainedConfig) -> tuple[GPT2Config, dict[str, Tensor]]:
    """Return config and state dict of the weights that the settings name. Raises UserError."""
    folder, tokens = download(config.size) if config.path is None else config.path, None
    if (place := vocabulary(config)) is not None:
        tokens = load_tokenizer({"model": {"name": "gpt2"}}, place).vocab_size
    own, state = read_folder(folder, tokens)
    block_size = min(config.block_size, own.block_size)
    state = resize(state, vocab_size=own.vocab_size, block_size=block_size)
    return dataclasses.replace(own, block_size=block_size, dropout=config.dropout), state


def vocabulary(config: PretrainedConfig) -> Path | None:
    """Return a folder with the tokenizer of a local folder, None if that has none. Raises UserError."""
    source = config.path
    files = [] if source is None else [source / name for name in VOCABULARIES if (source / name).is_file()]
    if source is None or not files:
        return None
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files))
    folder = cache_root() / "vocabularies" / digest.hexdigest()[:32]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            if not write_ranks(source, aside):
                return None
            with suppress(OSError):  # another process was faster
                aside.rename(folder)
        except UserError as error:
            raise UserError(f"{error}; use it as it is: --tokenizer hf --tokenizer.path {source}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def download(size: str) -> Path:
    """Return the folder in the hub's cache with a size's files, downloaded if needed. Raises UserError."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,  # of the client's HTTP library, whichever that is
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, revision = HUB[size]
    name = CONFIG
    try:
        hf_hub_download(repo, name, revision=revision)
        name = WEIGHTS
        return Path(hf_hub_download(repo, name, revision=revision)).parent
    except RepositoryNotFoundError:
        reason = "the hub has no such repository"
    except RevisionNotFoundError:
        reason = f"the hub has no revision {revision}"
    except RemoteEntryNotFoundError:
        reason = "the hub has no such file"
    except LocalEntryNotFoundError:
        offline = constants.HF_HUB_OFFLINE
        reason = f"{'HF_HUB_OFFLINE is set' if offline else 'no connection'}, and it is not in the hub's cache"
    except (HTTPError, OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(
        f"{repo}/{name} can't be downloaded: {reason}; try again, or give a local folder: --model.path DIR"
    )
