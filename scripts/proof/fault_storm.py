"""Kill a training run at random moments and check that nothing is lost; then damage its checkpoints.

    python scripts/proof/fault_storm.py                                          100 kills, some eight minutes
    python scripts/proof/fault_storm.py --kills 6 --damages 30 --steps 1200      a small one

A small model with dropout and accumulation is trained twice: once undisturbed, and once under SIGKILLs, of which some
are aimed at the instants of a save (seen from outside, by the files that it writes) and some at those of resuming.
Both must end with the same bits. Then bits are flipped in, and ends cut off, the files of its checkpoints: every
damage must be found, and none loaded. Ends with 1 where anything is not as it should be.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

SAVE_EVERY = 50
MODEL = "--model.block-size 16 --model.n-layer 1 --model.n-embd 16 --model.n-head 2 --model.dropout 0.1"
TRAIN = f"--batch-size 8 --micro-batch-size 4 --eval-every 200 --eval-tokens 256 --save-every {SAVE_EVERY} --keep 3"
WALL_CLOCK = {"seconds", "tokens_per_second", "eval_seconds"}
KINDS = {"in a step": 0.45, "in a save": 0.40, "resuming": 0.12, "starting": 0.03}
PARTS = ("", "model.safetensors", "optimizer.safetensors", "config.toml", "tokenizer", "state.json", "done")


def main() -> None:
    """Both storms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs (default 100)")
    parser.add_argument("--steps", type=int, default=12000, help="steps of the run (default 12000)")
    parser.add_argument("--damages", type=int, default=200, help="places to damage (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the storm")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="fault-storm-") as name:
        home = Path(name)
        os.environ["PEALM_CACHE"] = str(home / "cache")
        (home / "book.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(2000)))
        began = time.monotonic()
        straight, stormy = home / "straight", home / "stormy"
        if subprocess.run(command(straight, args.steps), stdout=subprocess.DEVNULL).returncode:
            fail("the undisturbed run failed")
        say(began, f"undisturbed: {args.steps:,} steps, a save every {SAVE_EVERY}")
        storm(stormy, args.kills, args.steps, draw, began)
        say(began, compare(straight, stormy))
        say(began, damage(stormy, args.damages, draw))
        say(began, damage_for_real(stormy, home / "copy", args.steps, draw))
    print("fault storm: all as it should be")


def command(run: Path, steps: int) -> list[str]:
    """The command line of the run: the same when it starts and when it resumes."""
    words = f"train char-transformer {MODEL} {TRAIN} --steps {steps} --warmup-steps 20"
    return [
        sys.executable,
        "-m",
        "pealm",
        *words.split(),
        "--input.text",
        str(run.parent / "book.txt"),
        "--out",
        str(run),
    ]


def storm(run: Path, kills: int, steps: int, draw: random.Random, began: float) -> None:
    """Train under that many SIGKILLs, then to the end."""
    from pealm_core.checkpoints import folder as checkpoint

    seen: Counter[str] = Counter()
    lost: list[int] = []
    half_saves = 0
    reached = 0
    log = run.with_suffix(".log")
    for count in range(kills + 1):
        with log.open("wb") as out:
            process = subprocess.Popen(command(run, steps), stdout=out, stderr=subprocess.STDOUT)
        if count == kills:
            if process.wait():
                fail(f"after the storm the run failed:\n{log.read_text()}")
            check_resumed(log, reached)
            break
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        # A share of what is left, so that the run can't be done before the storm is.
        left = steps - 3 * SAVE_EVERY - reached
        target = reached + (draw.randint(0, max(0, 2 * left // (kills - count + 1))) if left > 0 else 0)
        Aim(run, log, process, draw).wait(kind, target)
        before = last_saved(run)
        process.kill()
        if process.wait() != -9:
            fail(f"kill {count + 1} ({kind}, from step {target}): the process had ended before:\n{log.read_text()}")
        check_resumed(log, reached)
        newest, wrong = checkpoint.newest(run)
        now = step_of(newest) if newest else 0
        if wrong or now < before:
            fail(f"kill {count + 1} ({kind}): step {before} was saved, {now} is valid; {wrong}")
        seen[kind] += 1
        half_saves += any(run.glob("**/.*.tmp")) or any(run.glob("**/.*.old"))
        lost.append(max(0, last_step(run) - now))
        reached = now
        if (count + 1) % 10 == 0 or count + 1 == kills:
            say(began, f"{count + 1:3} kills, step {last_step(run):6,}, saved {now:6,}")
    kinds = ", ".join(f"{seen[kind]} {kind}" for kind in KINDS)
    say(began, f"{kills} SIGKILLs: {kinds}; {half_saves} left a half-written or half-removed folder")
    say(began, f"after each the newest save was whole; {sum(lost) / kills:.0f} steps to repeat, {max(lost)} at most")
    if max(lost) > 2 * SAVE_EVERY:  # a save is written beside the steps, and waited for by the next one
        fail("more was lost than since the last save")


class Aim:
    """Waits for the instant to strike."""

    def __init__(self, run: Path, log: Path, process: "subprocess.Popen[bytes]", draw: random.Random) -> None:
        self.run, self.log, self.process, self.draw = run, log, process, draw

    def wait(self, kind: str, target: int) -> None:
        """Return at a random instant: while starting or resuming, or from step target on, or in a save after that."""
        if kind == "starting":
            time.sleep(self.draw.uniform(0, 3))
            return
        self.until(lambda: read(self.run / ".lock").startswith(f"process {self.process.pid} "))
        if kind == "resuming":
            time.sleep(self.draw.uniform(0, 0.1))
            return
        self.until(lambda: "\nrun     " in read(self.log))
        self.until(lambda: last_step(self.run) >= target)
        if kind == "in a save":
            self.until(self.saving)
            part = self.draw.choice(PARTS)
            self.until(lambda: not self.saving() or (part != "done" and self.wrote(part)))
            time.sleep(self.draw.uniform(0, 0.002))
        else:
            time.sleep(self.draw.uniform(0, 0.02))

    def saving(self) -> bool:
        """Whether a folder is being written aside or removed."""
        return bool(self.asides())

    def wrote(self, part: str) -> bool:
        """Whether this part of the folder is there."""
        return any((folder / part).exists() for folder in self.asides())

    def asides(self) -> list[Path]:
        """Folders on their way into being or out of it."""
        return [*self.run.glob(".best.*.tmp"), *self.run.glob("checkpoints/.step-*.tmp")]

    def until(self, ready: Any) -> None:
        """Look again and again, and give up when the process has ended."""
        while not ready() and self.process.poll() is None:
            time.sleep(0.0005)


def check_resumed(log: Path, step: int) -> None:
    """Fail where the run went on from anything but the newest save; one that was killed early said nothing yet."""
    text = log.read_text()
    told = [line for line in text.splitlines() if line.startswith("resuming from ") or "no valid checkpoint" in line]
    expected = f"step-{step:08d}" if step else "no valid checkpoint"
    if (told and expected not in told[0]) or "skipped:" in text:
        fail(f"the run should have resumed from step {step}:\n{text}")


def compare(straight: Path, stormy: Path) -> str:
    """Whether both runs are the same to the last bit."""
    import torch

    from pealm_core.checkpoints import folder as checkpoint
    from pealm_core.checkpoints.tensors import read_tensors, read_tree

    one, two = metrics(straight), metrics(stormy)
    if one != two:
        first = next((a for a, b in zip(one, two, strict=False) if a != b), None)
        fail(f"the metrics differ: {len(one)} and {len(two)} lines, first at {first}")
    numbers = 0
    folders = [*checkpoint.steps(straight), straight / "best"]
    for folder in folders:
        other = stormy / folder.relative_to(straight)
        facts = [checkpoint.verify(place) for place in (folder, other)]
        for fact in facts:
            for key in WALL_CLOCK & fact.keys():
                del fact[key]
        if facts[0] != facts[1]:
            fail(f"{folder.name}: state.json says {facts[0]} and {facts[1]}")
        for name in ("model.safetensors", "optimizer.safetensors"):
            if not (folder / name).exists():
                continue
            a, b = (read_tensors(place / name)[0] for place in (folder, other))
            if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
                fail(f"{folder.name}/{name} differs")
            numbers += sum(tensor.numel() for tensor in a.values())
        if (folder / "optimizer.safetensors").exists():
            groups = [read_tree(place / "optimizer.safetensors")["param_groups"] for place in (folder, other)]
            if groups[0] != groups[1]:
                fail(f"{folder.name}: the optimizers' settings differ")
    names = ", ".join(folder.name for folder in folders)
    return f"bit-identical: {len(one):,} lines of metrics, {numbers:,} numbers in {names} (weights, optimizer)"


def damage(run: Path, places: int, draw: random.Random) -> str:
    """Flip a bit or cut off the end, look whether it is found by all who read checkpoints, and repair it."""
    import pealm_core
    from pealm_core import PealmError
    from pealm_core.checkpoints import folder as checkpoint

    folders = [*checkpoint.steps(run), run / "best"]
    counts: Counter[str] = Counter()
    missed = []
    for _ in range(places):
        folder = draw.choice(folders)
        path = draw.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        data = path.read_bytes()
        how = harm(path, draw)
        what = f"{how} in {path.relative_to(run)}"
        counts[how.partition(" ")[0]] += 1
        counts[path.name] += 1
        try:
            checkpoint.verify(folder)
            missed.append(f"{what}: verify found nothing")
        except PealmError as error:
            if str(path) not in str(error):
                missed.append(f"{what}: not named: {error}")
        newest, wrong = checkpoint.newest(run)
        if folder == newest or (folder == folders[-2] and not wrong):
            missed.append(f"{what}: training would go on from it")
        try:
            pealm_core.load(folder)
            if path.name != "optimizer.safetensors":  # which only training reads
                missed.append(f"{what}: it was loaded")
        except PealmError:
            pass
        path.write_bytes(data)
    if missed:
        fail(f"{len(missed)} were missed:\n" + "\n".join(missed[:20]))
    for folder in folders:
        checkpoint.verify(folder)  # all repaired: it was the damage that was found
    files = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if "." in name)
    kinds = f"{counts['flip']} bits flipped, {counts['cut']} ends cut off"
    return f"{places} damages ({kinds}: {files}): all found, none loaded"


def damage_for_real(run: Path, copy: Path, steps: int, draw: random.Random) -> str:
    """Each file of the newest checkpoint damaged: `train` names it and takes the one before, `sample` refuses."""
    from pealm_core.checkpoints import folder as checkpoint

    before, newest = checkpoint.steps(run)[-2:]
    names = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    for name in names:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        folder = copy / newest.relative_to(run)
        how = harm(folder / name, draw)
        pealm = [sys.executable, "-m", "pealm"]
        done = subprocess.run([*pealm, "sample", "--ckpt", folder, "-n", "1"], capture_output=True, text=True)
        wanted = 0 if name.name == "optimizer.safetensors" else 2  # only training reads that
        if done.returncode != wanted or (wanted and done.stdout) or "Traceback" in done.stderr:
            fail(f"{how} in {name}: sample ended with {done.returncode}: {done.stdout}{done.stderr}")
        more = [*pealm, "train", "--out", str(copy), "--steps", str(steps)]
        done = subprocess.run(more, capture_output=True, text=True)
        found = (
            f"skipped: {folder / name}" in done.stdout
            and f"resuming from {copy / before.relative_to(run)}" in done.stdout
        )
        if done.returncode or not found:
            fail(f"{how} in {name}: train ended with {done.returncode}: {done.stdout}{done.stderr}")
        if metrics(copy) != metrics(run):
            fail(f"{how} in {name}: the run that went on from {before.name} ended differently")
    told = f"train named each, went on from {before.name} and ended the same; sample refused"
    return f"{len(names)} files of {newest.name} damaged: {told}"


def harm(path: Path, draw: random.Random) -> str:
    """Flip one bit of a file, or cut off its end; says which."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    if draw.random() < 0.5 or path.name == "state.json":  # whose other numbers nothing is compared with
        path.write_bytes(data[:place])
        return f"cut at byte {place}"
    bit = draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"flip of bit {bit} of byte {place}"


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows]


def last_step(run: Path) -> int:
    """The step of the last whole line of metrics.jsonl."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            lines = file.read().split(b"\n")
        return int(json.loads(lines[-2])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def last_saved(run: Path) -> int:
    """The step of the newest checkpoint that has its name: from then on it must be whole."""
    return max((step_of(path) for path in run.glob("checkpoints/step-????????")), default=0)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def read(path: Path) -> str:
    """A file's text, nothing where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def say(began: float, line: str) -> None:
    """A line with the time since the start."""
    print(f"{time.monotonic() - began:4.0f} s  {line}", flush=True)


def fail(message: str) -> NoReturn:
    """End with a message."""
    sys.exit(f"fault storm: FAILED: {message}")


if __name__ == "__main__":
    main()
