"""What training needs of a job: its components, and the checks that come before anything is loaded."""

from pealm_core.config.job import Job
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError

COMPONENTS = ("model", "input", "tokenizer", "optimizer", "schedule", "objective", "strategy", "adapter", "observer")


def check(job: Job, world_size: int) -> None:
    """Raise UserError if a component is missing, can't be trained, or the batch is not divisible."""
    if "model" not in job.entries:
        raise UserError("train needs a model: pealm train MODEL")
    if not job.inputs:
        raise UserError("train needs an input: --input.NAME, see --help")
    entry, s = job.entries["model"], job.configs["train"]
    if entry.spec.pretrained is not None:
        family = entry.spec.family or "its family"
        raise UserError(f"{entry.name} is trained as {family}: pealm train {family} --init {entry.name}")
    _check_sizes(s, world_size)


def _check_sizes(s: TrainSettings, world_size: int) -> None:
    if s.batch_size % world_size:
        below = max(s.batch_size // world_size, 1) * world_size
        raise UserError(f"--batch-size {s.batch_size} is not divisible by {world_size} processes; try {below}")
    local, micro = s.batch_size // world_size, s.micro_batch_size
    if micro is not None and micro < local and local % micro:
        below = next(n for n in range(min(micro, 1_000_000), 0, -1) if local % n == 0)
        each = f" ({local} for each of {world_size} processes)" if world_size > 1 else ""
        raise UserError(f"--micro-batch-size {micro} does not divide --batch-size {s.batch_size}{each}; try {below}")
