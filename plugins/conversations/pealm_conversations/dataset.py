"""Conversations from a file with one in each line."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from pealm_conversations.config import ConversationsConfig
from pealm_conversations.formats import Messages, read_line
from pealm_core import CHAT_LAYOUT, Segment, UserError, chat_document


class Conversations:
    """Each conversation is a document, of which the assistant's texts and end marks are learned.

    A hash of its messages says which split it belongs to, whatever else is in the file.
    """

    chat = CHAT_LAYOUT
    packed = True

    def __init__(self, config: ConversationsConfig) -> None:
        self.config, self.notes = config, list[str]()

    def documents(self, split: str) -> Iterator[list[Segment]]:
        """Yield the conversations of a split, in the order of the file. Raises UserError, with line, for mistakes."""
        limit = self._limit
        for messages in self._conversations():
            if (_hash(messages) < limit) == (split == "val"):
                yield chat_document(messages)

    @cached_property
    def _limit(self) -> int:
        """The hash below which conversations are for validation: at least one, and at most all but one."""
        hashes, merged = set[int](), 0
        for messages in self._conversations():
            hashes.add(_hash(messages))
            merged += any(a["role"] == b["role"] for a, b in pairwise(messages))
        if len(hashes) < 2:
            raise UserError(f"{self.config.path} has only one conversation; one more is needed for validation")
        if merged:
            self.notes.append(f"conversations with several turns of one role in a row, which are merged: {merged:,}")
        limit = int(self.config.val_fraction * 2**64)
        return min(max(limit, min(hashes) + 1), max(hashes))

    def _conversations(self) -> Iterator[Messages]:
        path = Path(self.config.path)
        try:
            if path.exists() and not path.is_file():
                raise UserError(f"--input.conversations {path}: not a regular file")
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                empty = True
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    empty = False
                    try:
                        yield read_line(line)
                    except ValueError as error:
                        raise UserError(f"{path}, line {number:,}: {error}") from error
        except OSError as error:
            raise UserError(f"--input.conversations {path}: {(error.strerror or str(error)).lower()}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error.reason}; convert it first") from error
        if empty:
            raise UserError(f"{path} has no conversations")


def _hash(messages: Sequence[object]) -> int:
    digest = hashlib.blake2b(json.dumps(messages, sort_keys=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
