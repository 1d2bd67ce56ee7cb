"""The settings of the text dataset."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class TextConfig:
    """Which files, what a document is, and how much of the text is used for validation."""

    path: str
    val_fraction: float = setting(
        0.1,
        "fraction for validation: of the documents, by a hash, if they are many; else the end of the text",
        above=0,
        below=1,
    )
    separator: str | None = setting(
        None, "text between the documents of a file, such as <|endoftext|> (default: a file is a document)"
    )
    skip_bad: bool = setting(False, "leave out files that are empty, binary or not UTF-8, and name them")

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ValueError("separator: an empty text separates nothing; leave it out")
