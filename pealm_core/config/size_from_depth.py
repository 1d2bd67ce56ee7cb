"""`--depth N`: a transformer's sizes and its training from its number of layers alone."""

from typing import Any


def depth_preset(depth: int, *, width: int = 64) -> dict[str, Any]:
    """Return the preset of a compute-optimal transformer with `depth` layers, each of one head for `width` features.

    Tokens: 20 for each parameter outside the embeddings (Hoffmann et al. 2022, arXiv:2203.15556). Batch and rate: by
    the compute of the run, as DeepSeek-AI fitted them for AdamW (2024, arXiv:2401.02954); the batch is rounded up to
    a power of two.

    >>> depth_preset(12)["n_embd"], depth_preset(12)["train"]
    (768, {'steps': 6480, 'batch_size': 256, 'micro_batch_size': 16, 'lr': 0.0017, 'warmup_steps': 129})
    """
    if not (1 <= depth <= 128 and width >= 2):
        raise ValueError(f"depth {depth} with a width of {width} is out of range: 1 to 128 layers")
    block = min(1024, max(128, 1 << (width * depth - 1).bit_length()))
    matrices = 12 * depth * (width * depth) ** 2  # their parameters
    tokens = 20 * matrices
    compute = (6 * matrices + 12 * depth * width * depth * block) * tokens  # FLOPs
    batch = 1 << max(0, round(0.2920 * compute**0.3271 / block) - 1).bit_length()
    steps = max(1, round(tokens / (batch * block)))
    train = {
        "steps": steps,
        "batch_size": batch,
        "micro_batch_size": min(batch, 16384 // block),
        "lr": float(f"{0.3118 * compute**-0.1250:.2g}"),
        "warmup_steps": min(steps, max(10, steps // 50)),
    }
    return {"n_layer": depth, "n_head": depth, "n_embd": width * depth, "block_size": block, "train": train}
