"""CUDA graphs, without a GPU: what a recording keeps. scripts/proof/gpu.py runs them on one."""

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pealm_core.hardware import cuda_graph


class Holder:
    """Holds a tensor that kernels read."""

    def __init__(self) -> None:
        self.tensor = torch.ones(1)


def test_tensors_of_the_function_live_as_long_as_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their memory is given to other tensors, and the replayed kernels read and write those."""
    stream = SimpleNamespace(device=torch.device("cpu"), wait_stream=lambda other: None)

    def same(*args: Any, **kwargs: Any) -> Any:
        return stream

    def nothing(*args: Any, **kwargs: Any) -> Any:
        return nullcontext()

    fakes = {"current_stream": same, "Stream": same, "stream": nothing, "graph": nothing, "set_stream": nothing}
    for name, fake in {**fakes, "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None)}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    holder = Holder()
    alive = weakref.ref(holder)
    recording = cuda_graph.record(lambda holder=holder: holder.tensor + 1)  # type: ignore[misc]
    del holder
    gc.collect()
    assert alive() is not None and recording().tolist() == [2.0]
    del recording
    gc.collect()
    assert alive() is None
