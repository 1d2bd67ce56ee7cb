"""CUDA graphs: launch all kernels of a function by one call."""

import threading
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()


def record(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the kernels of a function that has the same shapes at every call and never waits for the GPU.

    The returned function launches them and returns the same tensor each time. Raises RuntimeError if the function
    can't be recorded. It runs once before: what is set up by a first call must not be recorded.
    """
    before = torch.cuda.current_stream()
    graph, stream = torch.cuda.CUDAGraph(), _side_stream(before.device)
    with _one_at_a_time:
        try:
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                function()
            before.wait_stream(stream)
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = function()
        finally:
            torch.cuda.set_stream(before)  # which torch leaves out after an error

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream to record on; cuBLAS keeps memory for each one that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
