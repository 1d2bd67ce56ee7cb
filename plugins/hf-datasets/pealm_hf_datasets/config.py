"""The settings of a dataset of the Hugging Face Hub."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class HFDatasetConfig:
    """Which dataset, which splits, and which column."""

    dataset: str
    config: str | None = setting(None, "configuration (subset), if the dataset has several")
    column: str = setting("text", "column with the text of a document")
    train_split: str = setting("train", "split to train on")
    val_split: str | None = setting(None, "split for validation (default: a fraction of the training split)")
    val_fraction: float = setting(
        0.01, "fraction for validation, by a hash of the text, without a val-split", above=0, below=1
    )
    revision: str | None = setting(None, "branch, tag or commit of the dataset")
    streaming: bool = setting(True, "read over the network in each pass; false: download everything first")

    def __post_init__(self) -> None:
        if self.val_split == self.train_split:
            raise ValueError(f"val-split: {self.val_split} is the training split; leave val-split out")
