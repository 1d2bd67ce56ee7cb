"""What learning a byte-pair encoding costs, in English and in Chinese, beside the trainer of `tokenizers`.

    python scripts/bench/bpe.py [--english FILE] [--chinese FILE]

Without files, both texts are made: words by Zipf's law, of letters and with spaces between them, or of Chinese
characters without. Each line is a document. Every measurement is a process of its own; rounds are interleaved. Prints
time and peak memory, the ratio to `tokenizers` on the same text and that of Chinese to English, of each the median
and the range. Goal: Chinese takes at most twice the time and memory of English.
"""

import argparse
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS, LANGUAGES = ("pealm", "tokenizers"), ("english", "chinese")


def zipf(size: int, exponent: float = 1.0) -> list[float]:
    """Return the cumulative weights of ranks 1 to size."""
    return list(itertools.accumulate(1 / rank**exponent for rank in range(1, size + 1)))


def write(path: Path, language: str, size: int, words: int) -> None:
    """Write lines of made text, `size` bytes in all."""
    rng = random.Random(language)
    letters = (
        "etaoinshrdlucmfwypvbgkqjxz" if language == "english" else "".join(map(chr, range(0x4E00, 0x4E00 + 3500)))
    )
    longest, weights = (10, zipf(26)) if language == "english" else (3, zipf(3500))
    made = ["".join(rng.choices(letters, cum_weights=weights, k=rng.randint(1, longest))) for _ in range(words)]
    space, comma, stop = (" ", ", ", ".\n") if language == "english" else ("", "\uff0c", "\u3002\n")
    weights = zipf(words)
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < size:
            clauses = [space.join(rng.choices(made, cum_weights=weights, k=rng.randint(4, 12))) for _ in range(12)]
            line = comma.join(clauses) + stop
            file.write(line)
            written += len(line.encode())


def measure(program: str, path: Path, vocab_size: int) -> None:
    """Learn in this process, and print seconds of wall clock and CPU, and peak bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from pealm_bpe.config import BPEConfig
    from pealm_bpe.tokenizer import BPETokenizer

    begin, cpu = time.perf_counter(), time.process_time()
    with path.open(encoding="utf-8") as lines:
        if program == "pealm":
            BPETokenizer(BPEConfig(vocab_size=vocab_size)).fit(lines)
        else:
            theirs = Tokenizer(models.BPE())
            theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            theirs.train_from_iterator(
                lines, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
            )
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(json.dumps([seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def show(label: str, values: list[float], unit: str = "") -> None:
    """Print the median and the range."""
    print(f"{label:<44}{statistics.median(values):>9.2f}{unit} ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--english", type=Path, help="text, instead of a made one")
    parser.add_argument("--chinese", type=Path, help="text, instead of a made one")
    parser.add_argument("--bytes", type=int, default=20_000_000, help="of each made text [20,000,000]")
    parser.add_argument("--words", type=int, default=100_000, help="distinct words of each made text [100,000]")
    parser.add_argument("--vocab-size", type=int, default=8000, help="[8000]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]), args.vocab_size)
        return
    results: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for language in LANGUAGES:
            paths[language] = getattr(args, language) or Path(folder, language)
            if getattr(args, language) is None:
                write(paths[language], language, args.bytes, args.words)
        for _ in range(args.rounds):
            for program, language in itertools.product(PROGRAMS, LANGUAGES):
                command = [sys.executable, __file__, "--vocab-size", str(args.vocab_size)]
                done = subprocess.run(
                    [*command, "--measure", program, str(paths[language])], stdout=subprocess.PIPE, check=True
                )
                results.setdefault((program, language), []).append(json.loads(done.stdout))
    for (program, language), rows in results.items():
        seconds, cpu, memory = (list(column) for column in zip(*rows, strict=True))
        show(f"{program}, {language}: seconds", seconds, " s")
        show(f"{program}, {language}: CPU seconds", cpu, " s")
        show(f"{program}, {language}: peak memory", [value / 2**20 for value in memory], " MiB")
    for what, place in (("time", 0), ("CPU time", 1), ("memory", 2)):
        ratios = {
            key: [ours[place] / theirs[place] for ours, theirs in zip(results[key], results[other], strict=True)]
            for key, other in (
                (("pealm", "english"), ("tokenizers", "english")),
                (("pealm", "chinese"), ("tokenizers", "chinese")),
                (("tokenizers", "chinese"), ("tokenizers", "english")),
            )
        }
        show(f"{what}, pealm / tokenizers, English", ratios["pealm", "english"])
        show(f"{what}, pealm / tokenizers, Chinese", ratios["pealm", "chinese"])
        show(f"{what}, tokenizers, Chinese / English", ratios["tokenizers", "chinese"])
        both = zip(results["pealm", "chinese"], results["pealm", "english"], strict=True)
        show(f"{what}, pealm, Chinese / English (goal 2)", [a[place] / b[place] for a, b in both])


if __name__ == "__main__":
    main()
