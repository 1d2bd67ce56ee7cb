"""CUDA graphs: launch all kernels of a function by one call."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Recording:
    """A function's kernels. A call launches them and returns the same tensor each time."""

    function: Callable[[], Tensor]  # whose tensors the kernels read and write: they live as long as the recording
    graph: torch.cuda.CUDAGraph
    output: Tensor

    def __call__(self) -> Tensor:
        """Launch the kernels."""
        self.graph.replay()
        return self.output


def record(function: Callable[[], Tensor]) -> Recording:
    """Record the kernels of a function that has the same shapes at every call and never waits for the GPU.

    Raises RuntimeError if the function can't be recorded. It runs once before: what is set up by a first call must
    not be recorded.
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

    return Recording(function, graph, output)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream to record on; cuBLAS keeps memory for each one that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
