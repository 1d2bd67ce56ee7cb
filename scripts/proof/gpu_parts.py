"""The parts of scripts/proof/gpu.py, which starts this file: `python scripts/proof/gpu_parts.py JSON`.

JSON says which parts to run, on which device and at which size. Each fact is a JSON line on standard output.
"""

import copy
import gc
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import pealm_core
from pealm_core import PealmError, Sampling, generate_ids
from pealm_core.config.resolve_job import plan
from pealm_core.config.settings import TrainSettings
from pealm_core.data.sources import Data
from pealm_core.data.token_stream import Split
from pealm_core.data.windows import FixedWindows, Windows
from pealm_core.hardware.device import autocast, pick_dtype, synchronize
from pealm_core.hardware.distributed import World
from pealm_core.hardware.faster_training import faster
from pealm_core.hardware.inference_weights import bytes_per_token, prepare
from pealm_core.inference import recorded_pass
from pealm_core.training.adamw import AdamWConfig, build
from pealm_core.training.ddp import DataParallel
from pealm_core.training.learning_rate import constant
from pealm_core.training.objective import NextToken
from pealm_core.training.progress import Display, record
from pealm_core.training.run_folder import Run
from pealm_core.training.trainer import Trainer
from pealm_gpt2 import model as gpt2
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2
from pealm_gpt2.plugin import SIZES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768}
VOCABULARY = 50257
COMMAND = "`python scripts/proof/gpu.py --out DIR"


class Facts:
    """Sends facts to the process that started this one."""

    def __init__(self, part: str, out: Any, *, quick: bool) -> None:
        self.part, self._out, self._quick = part, out, quick

    def send(self, status: str, name: str, text: str, /, **values: Any) -> None:
        fact = {**values, "part": self.part, "status": status, "name": name, "text": text}
        print(json.dumps(fact), file=self._out, flush=True)

    def check(self, name: str, holds: bool, text: str, /, **values: Any) -> None:
        """Send what must hold."""
        self.send("ok" if holds else "fail", name, text, **values)

    def figure(self, name: str, text: str, /, **values: Any) -> None:
        """Send a measurement."""
        self.send("figure", name, text, **values)

    def goal(self, name: str, met: bool, text: str, /, **values: Any) -> None:
        """Send a measurement that has a goal, at full size."""
        self.send("figure" if self._quick else "met" if met else "missed", name, text, **values)

    def skip(self, name: str, reason: str) -> None:
        """Say what was not measured, and why."""
        self.send("skip", name, reason)

    def row(self, section: str, what: str, reference: str, ours: str) -> None:
        """Send a row for a table of docs/results.md."""
        command = f"{COMMAND} --only {self.part}`"
        section += " (toy size: not for the tables)" if self._quick else ""
        self.send("row", what, "", section=section, reference=reference, ours=ours, command=command)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Report an error as a failed fact; what comes after still runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.check(name, False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}")


class Machine:
    """The device and the sizes of this run."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.device = torch.device(spec["device"], 0) if spec["device"] == "cuda" else torch.device("cpu")
        self.cuda, self.quick, self.hellaswag = spec["device"] == "cuda", spec["quick"], spec["hellaswag"]
        self.dtype = torch.bfloat16
        toy = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 300}
        self.shape = toy if self.quick else {**SMALL, "block_size": 1024, "vocab_size": VOCABULARY}

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else "CPU"

    @property
    def where(self) -> str:
        """The model and the device, for the rows."""
        return f"{'a toy model' if self.quick else 'GPT-2 124M'} on one {self.name}"

    def model(self, **changes: int) -> GPT2:
        """GPT-2 with random weights, the same ones each time."""
        torch.manual_seed(0)
        with self.device:
            sizes: dict[str, Any] = {**self.shape, **changes}
            return GPT2(GPT2Config(**sizes))

    def reset_memory(self) -> None:
        """Free what is no longer used, and count from here."""
        gc.collect()  # a trainer and its parts refer to each other
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> float:
        """Return the most memory that tensors took, in bytes; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.cuda else 0


def random_tokens(vocab_size: int, count: int) -> Any:
    return np.random.default_rng(0).integers(vocab_size, size=count).astype(np.uint16)


@contextmanager
def training(
    m: Machine,
    model: GPT2,
    batch_size: int,
    *,
    dtype: torch.dtype,
    without: tuple[str, ...] = (),
    fused: bool = True,
    steps: int = 1_000_000,
) -> Iterator[Trainer]:
    """Give pealm's trainer on random tokens, with its speed-ups."""
    shape = model.config
    fields: Any = {"steps": steps, "batch_size": batch_size, "lr": 6e-4, "warmup_steps": 0, "without": without}
    settings = TrainSettings(**fields, eval_every=0, eval_tokens=1, save_every=0)
    split, block = Split([random_tokens(shape.vocab_size, 100 * shape.block_size * 64)]), shape.block_size
    val = [("", 1.0, FixedWindows(split, block))]
    data = Data(Windows(split, block), val, "", "random")
    nothing = cast(Any, None)  # a tokenizer is for saving
    with tempfile.TemporaryDirectory() as folder:
        job = replace(plan((), flat={"train": TrainSettings}), configs={"train": settings})
        run = Run(Path(folder), {"train": {}})
        optimizer = build(AdamWConfig(fused=fused), model, lr=6e-4)
        parts = (NextToken(model, nothing), constant(), DataParallel(), World(), m.device, dtype, Display(quiet=True))
        trainer = Trainer(job, run, model, model, optimizer, nothing, data, *parts)
        trainer.saver.save = cast(Any, lambda **_: None)  # type: ignore[method-assign]
        with faster(model, m.device, without):
            try:
                yield trainer
            finally:
                trainer.batches.close()
                run.close()


def run_steps(trainer: Trainer, count: int) -> list[dict[str, Any]]:
    """Do what the training loop does between two validations; return the lines of metrics.jsonl."""
    lines, waiting = [], list[dict[str, Any]]()
    for _ in range(count):
        waiting.append(trainer.update())
        trainer.observers.call("pealm_step_end")
        trainer.finished()
        if not trainer._unread:
            for line in waiting:
                record(trainer, line)
            lines += waiting
            waiting = []
    trainer.read()
    return lines + waiting


def seconds(m: Machine, function: Callable[[], Any]) -> float:
    """Return how long a call takes, with all that it gave the device to do."""
    synchronize(m.device)
    began = time.perf_counter()
    function()
    synchronize(m.device)
    return time.perf_counter() - began


def peak(m: Machine, squares: list[int]) -> dict[str, Any]:
    """Measure square matrix products and a copy, as scripts/bench/train.py does."""
    train_worker = import_module("train_worker")
    rows: list[dict[str, Any]] = []
    short = {"squares": squares, "copy": 2**20 if m.quick else 2**30, "seconds": 0 if m.quick else 0.2, "rounds": 4}
    train_worker.peak(short, m.device, rows.append)
    return rows[0]


def step(m: Machine, facts: Facts) -> None:
    """Tokens/s and MFU, the cost of the trainer, and waits for the GPU."""
    train = import_module("train")
    batch, block = 2 if m.quick else 64, m.shape["block_size"]
    count, rounds = (2, 1) if m.quick else (10, 3)
    device = peak(m, [64] if m.quick else [8192])
    dtype = pick_dtype("auto", m.device) if m.cuda else torch.bfloat16
    known = train.published(device["name"])
    facts.figure(
        "measured peak",
        f"{device['flops'] / 1e12:.4g} TFLOP/s {device['dtype']}, copy {device['bandwidth'] / 1e12:.3g} TB/s, "
        f"{device['name']}, torch {device['torch']}{f', published {known} TFLOP/s' if known else ''}",
        **device,
    )
    if m.cuda and not m.quick:
        facts.check("auto precision on this GPU", dtype == torch.bfloat16, str(dtype))
    model = m.model()
    m.reset_memory()
    with training(m, model, batch, dtype=dtype) as trainer:
        first = seconds(m, lambda: trainer.update())
        run_steps(trainer, 2 if m.quick else 9)
        facts.figure("first step, with compiling", f"{first:.1f} s", seconds=first)
        bare = bare_loop(m, model, trainer.optimizer, batch, dtype)
        bare(2)
        lines: list[dict[str, Any]] = []
        ours, theirs = list[float](), list[float]()
        for number in range(rounds):
            for own in (True, False) if number % 2 else (False, True):
                if own:
                    ours.append(seconds(m, lambda: lines.extend(run_steps(trainer, count))) / count)
                else:
                    theirs.append(seconds(m, lambda: bare(count)) / count)
        taken, used = statistics.median(ours), m.memory()
        again = peak(m, [64] if m.quick else [8192])
        most = max(device["flops"], again["flops"])
        speed, flops = batch * block / taken, train.flops(m.shape)
        mfu = speed * flops / most
        facts.goal(
            f"GPT-2, {batch} x {block} tokens a step",
            speed >= train.GOAL and mfu >= train.GOAL_SHARE,
            f"{speed:,.0f} tokens/s, {1000 * taken:.1f} ms ({1000 * min(ours):.1f} to {1000 * max(ours):.1f}) a "
            f"step, MFU {100 * mfu:.1f} % of the measured peak"
            f"{f', {speed * flops / known / 1e10:.1f} % of the published' if known else ''}, "
            f"{used / 1e9:.1f} GB (goals: {train.GOAL:,}, {100 * train.GOAL_SHARE:.0f} %)",
            tokens_per_second=speed,
            mfu=mfu,
            memory=used,
            steps=ours,
        )
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        facts.goal(
            "trainer beside a bare loop",
            statistics.median(ratios) < 1.02,
            f"{100 * (statistics.median(ratios) - 1):+.2f} % ({100 * (min(ratios) - 1):+.2f} to "
            f"{100 * (max(ratios) - 1):+.2f}) (goal: under +2 %)",
            ratios=ratios,
        )
        shown = statistics.harmonic_mean([line["tokens_per_second"] for line in lines])
        spread = max(line["tokens_per_second"] for line in lines) / shown
        facts.check(
            "tokens/s in metrics.jsonl",
            m.quick or (0.95 < shown / (batch * block / statistics.mean(ours)) < 1.05 and spread < 1.5),
            f"{shown:,.0f} on average, at most {spread:.2f} times that",
        )
        finite = all(line["loss"] is not None and math.isfinite(line["loss"]) for line in lines)
        facts.check("losses are read and finite", finite, f"{lines[0]['loss']:.3f} to {lines[-1]['loss']:.3f}")
        if m.cuda:
            with facts.attempt("waits for the GPU"):
                waits(trainer, facts)
        else:
            facts.skip("waits for the GPU", "no CUDA")
    section = "Training speed"
    facts.row(section, f"{m.where}, {batch} x {block} tokens a step", "–", f"{speed:,.0f} tokens/s")
    facts.row(section, "the same, of the measured peak", "60 %", f"{100 * mfu:.1f} % of {most / 1e12:.3g} TFLOP/s")
    facts.row(section, "the trainer beside a bare loop", "0 %", f"{100 * (statistics.median(ratios) - 1):+.2f} %")


def bare_loop(
    m: Machine, model: GPT2, optimizer: torch.optim.Optimizer, batch: int, dtype: torch.dtype
) -> Callable[[int], None]:
    """Return a loop written by hand over the same model: random windows, forward, backward, clipping, AdamW."""
    block, rng = model.config.block_size, np.random.default_rng(1)
    data = random_tokens(model.config.vocab_size, 100 * block * 64)

    def loop(count: int) -> None:
        model.train()
        for _ in range(count):
            starts = rng.integers(len(data) - block - 1, size=batch)
            rows = torch.from_numpy(np.stack([data[s : s + block + 1] for s in starts]).astype(np.int64))
            rows = rows.pin_memory().to(m.device, non_blocking=True) if m.cuda else rows
            with autocast(m.device, dtype):
                loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())[1]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return loop


def waits(trainer: Trainer, facts: Facts) -> None:
    """Count waits for the GPU in steps that read nothing, as torch warns of them and as the profiler sees them."""
    while trainer._unread:
        trainer.update()
    count = trainer.read_every - 1

    def warned(function: Callable[[], Any]) -> list[str]:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]

    control = len(warned(lambda: torch.ones(1, device=trainer.device).item()))
    found = warned(lambda: [trainer.update() for _ in range(count)])
    read = len(warned(trainer.update))
    facts.check(
        "waits in steps that read nothing",
        control == 1 and not found,
        f"{len(found)} in {count} steps; {read} in the one that reads; a .item() counts {control}",
        places=sorted(set(found)),
    )
    while trainer._unread:
        trainer.update()
    synchronize(trainer.device)
    both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=both) as profile, torch.profiler.record_function("the steps"):
        for _ in range(count):
            trainer.update()
    events = list(profile.events() or [])
    (inside,) = [e.time_range for e in events if e.name == "the steps" and "CPU" in str(e.device_type)][:1]
    names = re.compile(r"cuda(Stream|Device|Event)Synchronize|cudaMemcpy$")
    seen = [e.name for e in events if names.match(e.name) and inside.start <= e.time_range.start <= inside.end]
    launches = sum("LaunchKernel" in e.name for e in events)
    if not launches:
        facts.skip("the same by the profiler", "it sees no CUDA calls here")
        return
    facts.check(
        "the same by the profiler",
        not seen,
        f"{len(seen)} {', '.join(sorted(set(seen)))} in {count} steps, {launches / count:.0f} kernels started a step",
    )


def written(m: Machine, model: Any, batch: int, tokens: int, *, graphs: bool = True) -> tuple[list[Any], list[float]]:
    """Generate greedily; return the ids and the times at which each step's reached the host."""
    prompt = torch.randint(m.shape["vocab_size"], (16,), generator=torch.Generator().manual_seed(3)).tolist()
    sampling = Sampling(max_new_tokens=tokens, temperature=0, num_samples=batch)
    ids, times = [], []
    for row in generate_ids(model, prompt, sampling, graphs=graphs):
        ids.append(row.tolist())
        times.append(time.perf_counter())
    return ids, times


def speed_of(times: list[float], batch: int) -> float:
    return batch / statistics.median(b - a for a, b in pairwise(times))


def sharp(model: GPT2) -> GPT2:
    """Make random weights larger, so that the likeliest token is clear and texts vary."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() == 2 else 1)
    return model.eval()


def decode(m: Machine, facts: Facts) -> None:
    """Tokens/s of one text and of many at once."""
    tokens, rounds = (40, 1) if m.quick else (224, 3)
    if m.quick:
        m.shape |= {"block_size": 64}
    plain = sharp(m.model())
    fast: Any = prepare(copy.deepcopy(plain), None, m.dtype)
    weights = bytes_per_token(fast)
    figures: dict[str, float] = {}
    for batch in (1, 4 if m.quick else 64):
        with facts.attempt(f"decoding, B = {batch}"):
            written(m, fast, batch, tokens)  # warms up
            speeds, whole = list[float](), list[float]()
            for _ in range(rounds):
                began = time.perf_counter()
                times = written(m, fast, batch, tokens)[1]
                speeds.append(speed_of(times, batch))
                whole.append(batch * tokens / (times[-1] - began))
            eager = speed_of(written(m, fast, batch, tokens, graphs=False)[1], batch)
            figures[f"pealm {batch}"] = best = statistics.median(speeds)
            goal = 2_000 if batch == 1 else 60_000
            facts.goal(
                f"tokens/s, B = {batch}",
                best >= goal,
                f"{best:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}), bf16; {statistics.median(whole):,.0f} with "
                f"prompt and recording; {eager:,.0f} without CUDA graphs (goal: {goal:,})",
                speeds=speeds,
                whole=whole,
                eager=eager,
            )
    if m.cuda:
        with facts.attempt("CUDA graphs"), torch.inference_mode():
            run = recorded_pass.Recorded(fast, fast.make_cache(1, 64))
            run(torch.zeros(1, 1, dtype=torch.long, device=m.device))
            recorded = not recorded_pass._failed and run._plain not in run._passes.values()
            facts.check("a token's pass is recorded", recorded, "" if recorded else "the reason is in log.txt")
        source = torch.ones(2**28, device=m.device)
        rate = source.nbytes / min(seconds(m, source.sum) for _ in range(5))
        limit = rate / weights
        facts.figure("limit by reading the weights, B = 1", f"{limit:,.0f} tokens/s at {rate / 1e12:.2f} TB/s")
    else:
        facts.skip("CUDA graphs", "no CUDA")
    with facts.attempt("the same tokens with and without graphs"):
        torch.set_float32_matmul_precision("highest")
        one, other = (written(m, plain, 2, tokens, graphs=graphs)[0] for graphs in (True, False))
        same = sum(a == b for a, b in zip(one, other, strict=True))
        facts.check("fp32: tokens with and without graphs", same == tokens, f"{same} of {tokens} steps are equal")
    try:
        import_module("transformers.utils.logging").disable_progress_bar()
        with m.device:
            peer = import_module("generate").gpt2_of_transformers(plain).to(m.device).eval()
    except ImportError as error:
        facts.skip("transformers", f"not importable: {error}")
        return
    peer = peer.to(m.dtype)
    for batch in (1, 4 if m.quick else 64):
        with facts.attempt(f"transformers, B = {batch}"):
            idx = torch.randint(m.shape["vocab_size"], (batch, 16), device=m.device)

            def generate(count: int, idx: torch.Tensor = idx) -> Any:
                options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
                return peer.generate(
                    idx, attention_mask=torch.ones_like(idx), min_new_tokens=count, max_new_tokens=count, **options
                )

            generate(4)
            long, short = tokens // 2, 4
            taken = [seconds(m, partial(generate, n)) for n in (long, short)]
            theirs = batch * (long - short) / (taken[0] - taken[1])
            ratio = figures.get(f"pealm {batch}", 0) / theirs
            facts.figure(
                f"transformers, B = {batch}", f"{theirs:,.0f} tokens/s in bf16; pealm is {ratio:.2f} times as fast"
            )
            facts.row(
                "Sampling",
                f"{m.where}, bf16, {batch} {'text' if batch == 1 else 'texts'} at once, tokens/s",
                f"{theirs:,.0f} (transformers, same run)",
                f"{figures.get(f'pealm {batch}', 0):,.0f}",
            )


def compiled(m: Machine, facts: Facts) -> None:
    """Decoding by a compiled model, for comparison: pealm itself does not compile for sampling."""
    if not m.cuda:
        facts.skip("a compiled model", "no CUDA")
        return
    tokens = 224
    fast: Any = prepare(sharp(m.model()), None, m.dtype)
    began = time.perf_counter()
    fast.compile(dynamic=False)
    for batch in (1, 4 if m.quick else 64):
        with facts.attempt(f"a compiled model, B = {batch}"):
            # The prompt's pass would be compiled also, for nothing.
            cache = fast.make_cache(batch, 16 + tokens)
            idx = torch.randint(m.shape["vocab_size"], (batch, 16), device=m.device)
            with torch.inference_mode():
                with torch.compiler.set_stance("force_eager"):
                    fast(idx, cache=cache)
                run, times = recorded_pass.Recorded(fast, cache), list[float]()
                token = idx[:, -1:]
                for _ in range(tokens):
                    token = run(token).argmax(-1)
                    token.tolist()
                    times.append(time.perf_counter())
            recorded = "" if not recorded_pass._failed else "; NOT recorded, see log.txt"
            text = f"{speed_of(times, batch):,.0f} tokens/s, {time.perf_counter() - began:.0f} s with compiling"
            facts.figure(f"compiled and recorded, B = {batch}", text + recorded)


def correct(m: Machine, facts: Facts) -> None:
    """Equal numbers on CPU and GPU, by all kernels, in all precisions, and after a resume."""
    sizes = {"n_layer": 1, "n_embd": 32} if m.quick else {"n_layer": 4, "n_head": 4, "n_embd": 256}
    shape = {**sizes, "block_size": 32 if m.quick else 256, "vocab_size": 300 if m.quick else 5000}
    model = m.model(**shape)
    rows = torch.randint(
        shape["vocab_size"], (4, shape["block_size"] + 1), generator=torch.Generator().manual_seed(2)
    )
    idx, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def passes(model: Any, dtype: torch.dtype = torch.float32) -> tuple[float, torch.Tensor]:
        """Loss and all gradients as one vector, on the CPU in fp64."""
        device = next(model.parameters()).device
        model.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            loss = model(idx.to(device), targets.to(device))[1]
        loss.backward()
        gradients = torch.cat([p.grad.flatten().double().cpu() for p in model.parameters()])
        return float(loss.detach()), gradients

    def compare(name: str, a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor], bound: float) -> None:
        loss = abs(a[0] - b[0]) / abs(b[0])
        gradient = float((a[1] - b[1]).norm() / b[1].norm())
        text = f"loss differs by {loss:.1e}, gradients by {gradient:.1e} of their norm (bound {bound:.0e})"
        facts.check(name, max(loss, gradient) < bound, text, loss=loss, gradient=gradient)

    torch.set_float32_matmul_precision("highest")
    exact = passes(copy.deepcopy(model).cpu())
    here = passes(model)
    compare(f"fp32, {m.name} and CPU", here, exact, 3e-5)
    with facts.attempt("TF32"):
        torch.set_float32_matmul_precision("high")
        compare("TF32 and CPU", passes(model), exact, 1e-2)
    torch.set_float32_matmul_precision("highest")
    low = passes(model, torch.bfloat16)
    with sdpa_kernel(SDPBackend.MATH):
        by_math = passes(model, torch.bfloat16)
    compare("bf16, default and math attention", low, by_math, 3e-2)
    errors = [float((x[1] - exact[1]).norm() / exact[1].norm()) for x in (low, by_math)]
    text = f"default attention {errors[0]:.1e}, math {errors[1]:.1e} of the norm"
    facts.check("bf16, gradients' error beside fp32", errors[0] < 1.5 * errors[1] + 1e-3, text)
    with facts.attempt("compiled and not"):
        other = copy.deepcopy(model)
        other.compile(dynamic=False, **({} if m.cuda else {"backend": "eager"}))
        compare(f"fp32, compiled and not{'' if m.cuda else ' (traced only)'}", passes(other), here, 3e-5)
    with facts.attempt("the cache"):
        text_of = sharp(copy.deepcopy(model))
        count, found = 24 if m.quick else 300, dict[str, list[Any]]()
        for name, options in {"cache": {}, "no graphs": {"graphs": False}, "no cache": {"use_cache": False}}.items():
            sampling = Sampling(max_new_tokens=count, temperature=0, num_samples=3)
            found[name] = [ids.tolist() for ids in generate_ids(text_of, [1, 2, 3], sampling, **options)]
        for one, name in (("cache", "no graphs"), ("no graphs", "no cache")):
            same = sum(a == b for a, b in zip(found[one], found[name], strict=True))
            facts.check(f"fp32 tokens, {one} and {name}", same == count, f"{same} of {count} steps are equal")
    with facts.attempt("a loss that is not finite"):
        not_finite(m, facts, shape)
    with tempfile.TemporaryDirectory() as folder:
        with facts.attempt("loss curves"):
            curves(m, facts, Path(folder))
        with facts.attempt("resuming"):
            resume(m, facts, Path(folder))


def not_finite(m: Machine, facts: Facts, shape: Mapping[str, int]) -> None:
    """Check that a loss that is not finite ends the run with its step, though the GPU's losses are read late."""
    with training(m, m.model(**shape), 2, dtype=torch.float32, without=("compile",)) as trainer:
        run_steps(trainer, 3)
        next(trainer.model.parameters()).data.fill_(float("nan"))
        reason = ""
        try:
            for _ in range(12):
                trainer.update()
            trainer.read()
        except PealmError as error:
            reason = str(error)
        text = f"after step {trainer.step}: {reason:.60}"
        facts.check("a loss that is not finite names its step", "not finite at step 4 " in reason, text)


def text_of_repository(folder: Path, size: int) -> Path:
    """Return a file of Python source and documentation, in ASCII."""
    path = folder / "text.txt"
    if not path.exists():
        files = sorted([*ROOT.glob("pealm_core/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/**/*.py")])
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        path.write_text(text.encode("ascii", "ignore").decode()[:size], encoding="ascii")
    return path


def trained(m: Machine, folder: Path, name: str, **settings: Any) -> Path:
    """Train GPT-2 on this repository's text by characters, as `pealm train` does."""
    size = {"n_layer": 1, "n_head": 2, "n_embd": 32} if m.quick else {"n_layer": 4, "n_head": 4, "n_embd": 256}
    text = text_of_repository(folder, 20_000 if m.quick else 1_000_000)
    fixed: dict[str, Any] = {
        "tokenizer": "char",
        "device": m.device.type,
        "batch_size": 4 if m.quick else 32,
        "warmup_steps": 0,
        "eval_every": 0,
        "eval_tokens": 100 if m.quick else 50_000,
        "save_every": 0,
        "schedule": "constant",
        "without": ("compile",),
    }
    table = {"name": "gpt2", "block_size": 16 if m.quick else 256, **size}
    return pealm_core.train(table, {"text": str(text)}, out=folder / name, **fixed | settings)


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line.get("loss") is not None]


def curves(m: Machine, facts: Facts, folder: Path) -> None:
    """Compare the losses of runs in fp32, bf16 and fp16."""
    steps = 6 if m.quick else 100
    found = {}
    for name in ("fp32", "bf16", "fp16"):
        try:
            found[name] = losses(trained(m, folder, f"curve-{name}", dtype=name, steps=steps))
        except PealmError as error:
            if name != "fp16":
                raise
            facts.skip("fp16, loss curve", str(error).splitlines()[0])
    ends = {name: statistics.mean(values[-steps // 5 :]) for name, values in found.items()}
    for name in found.keys() - {"fp32"}:
        # fp16 skips its first steps until its scale fits.
        difference, bound = (max(abs(a - b) for a, b in zip(found[name], found["fp32"], strict=False)), 0.01)
        bound = 0.03 if name == "fp16" else bound
        facts.check(
            f"{name}, loss curve beside fp32",
            abs(ends[name] / ends["fp32"] - 1) < bound,
            f"{found[name][0]:.3f} to {ends[name]:.4f} and {ends['fp32']:.4f} after {steps} steps, at most "
            f"{difference:.4f} apart (bound {100 * bound:.0f} %)",
        )


def resume(m: Machine, facts: Facts, folder: Path) -> None:
    """Compare a run that was resumed with ones that were not, to the bit."""
    half = 3 if m.quick else 15

    def state(run: Path) -> tuple[bytes, ...]:
        newest = max((run / "checkpoints").iterdir())
        return tuple((newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors"))

    for name, without in (("flash attention", ("compile",)), ("math attention", ("compile", "flash"))):
        label, steps = name.split()[0], 2 * half
        runs = [trained(m, folder, f"{label}-{i}", steps=steps, without=without) for i in range(1 + (not m.quick))]
        trained(m, folder, f"{label}-resumed", steps=half, without=without)
        resumed = trained(m, folder, f"{label}-resumed", steps=steps, without=without)
        same = state(resumed) == state(runs[0])
        steady = state(runs[-1]) == state(runs[0])
        apart = max(abs(a - b) for a, b in zip(losses(resumed), losses(runs[0]), strict=True))
        text = f"{'equal to the bit' if same else f'losses at most {apart:.1e} apart'}"
        if steady or same or label == "math":
            facts.check(f"resumed, {name}", same, text)
        else:
            facts.figure(f"resumed, {name}", f"{text}; two runs that weren't resumed differ also: its kernels do")


class Words:
    """A tokenizer for made text: each word is an id."""

    vocab_size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        return [hash(word) % self.vocab_size for word in text.split()]

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


def made_rows(path: Path, count: int) -> None:
    """Write rows as long as HellaSwag's: on average 47 tokens of context and 31 of an ending."""
    rng = random.Random(0)

    def words(mean: float) -> str:
        return " ".join(f"w{rng.randrange(10**6)}" for _ in range(max(3, round(rng.gauss(mean, mean / 3)))))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            context, endings = words(47), [words(31) for _ in range(4)]
            row = {"activity_label": "w", "ctx_a": context, "ctx_b": "", "ctx": context, "endings": endings}
            file.write(json.dumps({**row, "label": rng.randrange(4), "split": "val"}) + "\n")


def evaluate(m: Machine, facts: Facts) -> None:
    """HellaSwag's rows per second: of made rows, and of real ones if a file was named."""
    model: Any = m.model(block_size=max(256, m.shape["block_size"]), vocab_size=VOCABULARY)
    model = prepare(model.eval(), None, m.dtype)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "rows.jsonl"
        made_rows(made, 6 if m.quick else 10_042)
        rows_per_second(m, facts, "made", made, model, Words())
        if m.hellaswag:
            tiktoken = import_module("pealm_tiktoken.tokenizer").TiktokenTokenizer()
            rows_per_second(m, facts, "real", Path(m.hellaswag), model, tiktoken)


def rows_per_second(m: Machine, facts: Facts, kind: str, path: Path, model: Any, tokenizer: Any) -> None:
    """Time the evaluation of a file's rows, tokenization included."""
    from pealm_hellaswag.config import HellaSwagConfig
    from pealm_hellaswag.evaluator import HellaSwag

    total = min(6, len(path.read_bytes().splitlines())) if m.quick else len(path.read_bytes().splitlines())
    taken = 0.0
    for limit in (min(total, 200), total):  # the first warms up
        evaluator = HellaSwag(HellaSwagConfig(file=path, limit=limit))
        began = time.perf_counter()
        evaluator.evaluate(model, tokenizer, config={}, progress=lambda done, total, text: None)
        taken = time.perf_counter() - began
    rate = total / taken
    text = f"{rate:,.0f} rows/s: 10,042 in {10_042 / rate:.1f} s (goal: 10 s)"
    facts.goal(f"HellaSwag, {total:,} {kind} rows", 10_042 / rate <= 10, text, seconds=taken)
    what = f"rows/s, {m.where}, bf16, {total:,} {kind} rows"
    facts.row("HellaSwag", what, "1,004 (all in 10 s)", f"{rate:,.0f}")


def memory(m: Machine, facts: Facts) -> None:
    """The most memory of a training step, by size and by sequences in a pass, without compiling."""
    sizes = {"small": SMALL, **SIZES}
    tried = {"small": (4, 16, 64), "medium": (4, 16, 32), "large": (4, 16), "xl": (4, 16)}
    if m.quick:
        sizes, tried = {"toy": {}}, {"toy": (1, 2)}
    for size, batches in tried.items():
        shown, parameters = [], 0
        for batch in batches:
            with facts.attempt(f"memory of {size}, {batch} sequences"):
                parameters, used = memory_of_step(m, sizes[size], batch)
                shown.append(f"{batch}: {f'{used / 1e9:.1f} GB' if used is not None else 'out of memory'}")
        text = ", ".join(shown)
        facts.figure(f"memory, {size}, {parameters / 1e6:,.0f} M, by sequences", text, memory=shown)
        facts.row("Training speed", f"memory of GPT-2 {size} by sequences of 1,024 in a pass", "–", text)


def memory_of_step(m: Machine, size: dict[str, int], batch: int) -> tuple[int, float | None]:
    """Return the number of parameters, and the most bytes of two steps; None if that is more than there is."""
    m.reset_memory()
    model = m.model(**size)
    parameters = sum(p.numel() for p in model.parameters())
    try:
        with training(m, model, batch, dtype=m.dtype, without=("compile", "prefetch")) as trainer:
            run_steps(trainer, 2)
    except torch.OutOfMemoryError:
        return parameters, None
    return parameters, m.memory()


RUNGS = ("fp32, plain", "tf32", "bf16", "flash", "fused AdamW", "padded vocabulary", "prefetch", "gc", "compile")


def ladder(m: Machine, facts: Facts) -> None:
    """Speed-ups one by one, each beside the first: one process, and compiled last, for its cost."""
    batch, count = (2, 1) if m.quick else (16, 8)
    without, fused = ["tf32", "compile", "flash", "prefetch", "onednn", "heap", "gc"], False
    dtype = torch.float32
    gpt2.ROWS, rows = 1, gpt2.ROWS
    base = 0.0
    try:
        for name in RUNGS:
            if not m.cuda and name in ("tf32", "compile"):
                facts.skip(f"+ {name}", "no CUDA")
                continue
            with facts.attempt(f"+ {name}"):
                dtype = m.dtype if name == "bf16" else dtype
                gpt2.ROWS = rows if name == "padded vocabulary" else gpt2.ROWS
                fused = fused or name == "fused AdamW"
                without = [each for each in without if each != name]
                taken, used = rung(m, batch, count, dtype=dtype, without=tuple(without), fused=fused)
                speed = batch * m.shape["block_size"] / taken
                base = base or speed
                text = f"{speed:,.0f} tokens/s, {speed / base:.2f} times, {used / 1e9:.1f} GB"
                facts.figure(f"+ {name}" if speed != base else name, text, tokens_per_second=speed, memory=used)
                facts.row("Training speed", f"ladder, {name}", "–", f"{speed:,.0f} tokens/s, {speed / base:.2f}x")
    finally:
        gpt2.ROWS = rows


def rung(m: Machine, batch: int, count: int, **options: Any) -> tuple[float, float]:
    """Return the seconds of a step and the most memory."""
    m.reset_memory()
    with training(m, m.model(), batch, **options) as trainer:
        run_steps(trainer, 1 if m.quick else 3)
        return seconds(m, partial(run_steps, trainer, count)) / count, m.memory()


def two(m: Machine, facts: Facts) -> None:
    """Two processes on one device: gloo must learn the same as one process; NCCL needs a GPU for each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = losses(trained(m, folder, "alone", **TWO))
        for backend in ("gloo", *(["nccl"] if m.cuda else [])):
            codes, said = launch(m, folder, backend)
            if backend == "nccl":
                text = next(
                    (line for line in said.splitlines() if "nccl" in line.lower() or "GPU" in line), said[-200:]
                )
                fine = codes == [0, 0] or ("Traceback" not in said and all(codes) and 124 not in codes)
                facts.check("NCCL, two processes on one GPU", fine, f"exit codes {codes}: {text.strip()[:150]}")
                continue
            if codes != [0, 0]:
                facts.check("gloo, two processes", False, f"exit codes {codes}: {said.strip().splitlines()[-1:]}")
                continue
            both = losses(folder / "gloo")
            apart = max(abs(a - b) / b for a, b in zip(alone, both, strict=True))
            facts.check("gloo, two processes learn as one", apart < 1e-4, f"losses at most {apart:.1e} apart")


TWO: dict[str, Any] = {"steps": 4, "dtype": "fp32", "without": ("compile", "tf32")}


def launch(m: Machine, folder: Path, backend: str) -> tuple[list[int], str]:
    """Train in two processes on the first device; return their exit codes and what they wrote."""
    port = str(random.Random().randrange(20_000, 40_000))
    place = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    spec = {"device": m.device.type, "quick": m.quick, "hellaswag": None, "worker": [str(folder), backend]}
    logs, processes = [folder / f"{backend}-{rank}.txt" for rank in (0, 1)], []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            env = {**os.environ, **place, "MASTER_PORT": port, "RANK": str(rank)}
            command = [sys.executable, __file__, json.dumps(spec)]
            processes.append(subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT))
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(40))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(124)
    said = "\n".join(log.read_text() for log in logs)
    print(said, file=sys.stderr)
    return codes, said


def worker(m: Machine, folder: Path, backend: str) -> None:
    """Be one of two processes."""
    rank = int(os.environ["RANK"])
    if backend == "gloo":  # pealm takes NCCL between GPUs; a group that is there already stays
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    try:
        trained(m, folder, backend, **TWO)
    except PealmError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


ALL = {
    "step": step,
    "decode": decode,
    "correct": correct,
    "eval": evaluate,
    "memory": memory,
    "ladder": ladder,
    "two": two,
    "compiled": compiled,
}


def main() -> None:
    """Run the parts, or be one of two processes."""
    spec = json.loads(sys.argv[1])
    if "worker" in spec:
        folder, backend = spec["worker"]
        worker(Machine(spec), Path(folder), backend)
        return
    out = os.fdopen(os.dup(1), "w", buffering=1)  # only facts
    os.dup2(2, 1)
    sys.stdin.readline()
    for name in spec["parts"]:
        facts, m, began = Facts(name, out, quick=spec["quick"]), Machine(spec), time.perf_counter()
        try:
            ALL[name](m, facts)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
            facts.check("the part itself", False, text)
        facts.figure("time of the part", f"{time.perf_counter() - began:.1f} s")
        torch.set_float32_matmul_precision("highest")
    out.flush()
    os._exit(0)  # without waiting for threads


if __name__ == "__main__":
    main()
