"""llama.cpp loads our GGUF files and writes the same greedy text: a small GPT-2, a new nano Llama, SmolLM2.

    python scripts/proof/llama_cpp.py [--bin FOLDER] [--smollm2 MODEL.gguf] [--tokens 48]

--bin: a folder with `llama-completion`; without it, llama.cpp is built from the source archive of llama-cpp-python on
PyPI (CPU only; ten minutes on one core), if there are cmake and a C++ compiler. Where it can't be had, the script
says so and shows nothing. llama.cpp's cache is set to F32, which is ours.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pealm_core import load

ROOT = Path(__file__).resolve().parents[2]
TOOL = "llama-completion"
OFF = ("BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER")
OPTIONS = ("CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "LLAMA_BUILD_EXAMPLES=OFF", *(f"{name}=OFF" for name in OFF))
SHAKESPEARE = ("First Citizen:\n", "ROMEO:\nWhat is ", "The king said 3 times, don't")
SMOLLM2 = ("The capital of France is", "Once upon a time, in 1987,", "def add(a, b):\n    ")


def build(folder: Path) -> Path:
    """Build llama.cpp and return the folder of its programs. Raises OSError and CalledProcessError."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "llama-cpp-python"]
    subprocess.run([*pip, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (source,) = folder.glob("*/vendor/llama.cpp")
    made = folder / "build"
    subprocess.run(["cmake", "-S", source, "-B", made, *(f"-D{option}" for option in OPTIONS)], check=True)
    subprocess.run(["cmake", "--build", made, "--target", TOOL, "llama-bench"], check=True)
    return made / "bin"


def pealm(*words: object) -> None:
    """Run a command of pealm."""
    subprocess.run([sys.executable, "-m", "pealm_core._pealm", *map(str, words)], check=True)


def write(tool: Path, model: Path, prompt: str, tokens: int) -> str:
    """Return what llama.cpp writes after a prompt.

    At its end the program sometimes loses the last lines of its output; it is complete if the times come after it.
    """
    cache = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]
    words = ["-m", model, "-p", prompt, "-n", tokens, "-t", 1, "--temp", 0, "-no-cnv", "--no-display-prompt", "-sp"]
    words += ["--no-escape", "--no-warmup"]
    for _ in range(30):
        done = subprocess.run([str(tool), *map(str, words), *cache], check=True, capture_output=True)
        if b"eval time" in done.stderr:
            return done.stdout.decode("utf-8", "replace")
    raise RuntimeError(f"{tool} never wrote its whole output")


def compare(tool: Path, checkpoint: Path, gguf: Path, prompts: tuple[str, ...], tokens: int) -> None:
    """Compare greedy texts. A text that ends within a character is compared up to there."""
    lm = load(checkpoint, device="cpu", dtype="fp32")
    for prompt in prompts:
        ours = lm.generate(prompt, max_new_tokens=tokens, temperature=0).removeprefix(prompt).rstrip("\ufffd")
        theirs = write(tool, gguf, prompt, tokens)
        assert theirs.startswith(ours) and len(ours) > 10, f"{gguf.name}, {prompt!r}: {theirs!r}, not {ours!r}"
        print(f"  {prompt[-28:]!r} → {ours[:48]!r}, {len(ours)} characters equal")


def main() -> None:
    """Compare all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, help="a folder with llama-completion")
    parser.add_argument("--smollm2", type=Path, help="SmolLM2-135M-Instruct as GGUF (scripts/proof/smollm2.py)")
    parser.add_argument("--text", type=Path, help="a text to train the nano model on [this repository's docs]")
    parser.add_argument("--steps", type=int, default=150, help="steps of its training [150]")
    parser.add_argument("--tokens", type=int, default=48, help="tokens after each prompt [48]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            tool = (args.bin or build(folder)) / TOOL
            if shutil.which(tool) is None:
                raise FileNotFoundError(f"{tool} can't be run")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"not shown: llama.cpp can't be had here ({error})")
            return
        text = args.text or folder / "docs.txt"
        if args.text is None:
            text.write_text("\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
        small = ("--preset", "nano", "--model.block-size", 128, "--steps", args.steps, "--warmup-steps", 10)
        quiet = ("--eval-tokens", 2000, "--eval-every", 0, "--out", folder / "nano")
        pealm("train", "llama", "--input.text", text, *small, *quiet)
        models = {
            "gpt2": (ROOT / "weights" / "gpt2-shakespeare", SHAKESPEARE),
            "nano": (folder / "nano", SHAKESPEARE),
        }
        if args.smollm2 is not None:
            pealm("convert", args.smollm2, folder / "smollm2", "--from", "gguf")
            models["smollm2"] = (folder / "smollm2", SMOLLM2)
        for model, (checkpoint, prompts) in models.items():
            gguf = folder / f"{model}.gguf"
            pealm("convert", checkpoint, gguf, "--to", "gguf", "--dtype", "fp32")
            compare(tool, checkpoint, gguf, prompts, args.tokens)
        print(f"llama.cpp writes the same greedy text from our files: {', '.join(models)}")


if __name__ == "__main__":
    main()
