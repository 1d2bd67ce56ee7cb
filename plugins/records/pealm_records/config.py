"""The settings of the dataset of records."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class RecordsConfig:
    """Which files, and which column of them."""

    path: str
    column: str = setting("text", "column with the text of a document")
    val_fraction: float = setting(
        0.01, "fraction of the documents, chosen by a hash of their text, used for validation", above=0, below=1
    )
