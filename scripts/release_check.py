"""Build the wheel and the source archive of every distribution, and check them; `scripts/release` runs this."""

import argparse
import posixpath
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import setuptools.build_meta as b, sys; b.build_{}(sys.argv[1])"

# Every project of others that a distribution of ours may need, and why. Installing runs its code on the user's
# machine, so a new name is added here only after a look at what that project on the index is.
THIRD_PARTY = {
    "click": "the command line",
    "datasets": "reads datasets of the Hugging Face Hub",
    "graphviz": "pictures of pea's graphs (the extra viz)",
    "huggingface-hub": "downloads GPT-2's weights and FineWeb-Edu",
    "lm-eval": "tasks of the lm-evaluation-harness",
    "jinja2": "chat templates; HTML of the reports",
    "markupsafe": "escaped text in that HTML",
    "gguf": "reads GGUF files",
    "matplotlib": "charts of the reports",
    "numpy": "token arrays",
    "optuna": "searches hyperparameters",
    "packaging": "version numbers and their bounds",
    "pluggy": "hooks",
    "prompt-toolkit": "edits lines in the terminal",
    "starlette": "routes of the server",
    "uvicorn": "HTTP of the server",
    "pyarrow": "reads parquet files",
    "zstandard": "reads .zst files, if installed",
    "pytest": "runs the tests of plugins",
    "rich": "tables and progress bars",
    "safetensors": "checkpoint files",
    "setuptools": "builds every distribution",
    "tensorboard": "shows runs, if installed separately",
    "tiktoken": "OpenAI's encodings",
    "tokenizers": "learns byte-pair encodings",
    "tomli-w": "writes config files",
    "torch": "tensors and gradients",
    "wandb": "shows runs, if installed separately",
}


class ReleaseError(Exception):
    """Whatever prevents a release, in one line."""


def projects(root: Path) -> list[Path]:
    """List the folders of all distributions, the umbrella last."""
    folders = [root / "pea", root / "pealm_core", *sorted((root / "plugins").iterdir()), root]
    return [folder for folder in folders if (folder / "pyproject.toml").is_file()]


def pyproject(project: Path) -> dict[str, Any]:
    """Read a project's pyproject.toml."""
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))


def read_versions(folders: Iterable[Path]) -> dict[str, str]:
    """Map the name of each distribution to its version."""
    tables = [pyproject(folder)["project"] for folder in folders]
    return {canonicalize_name(table["name"]): table["version"] for table in tables}


def common_version(versions: Mapping[str, str]) -> str:
    """Return the version that all distributions have. Raise ReleaseError if they differ."""
    if len(set(versions.values())) != 1:
        raise ReleaseError(f"the versions differ: {', '.join(f'{k} {v}' for k, v in versions.items())}")
    return next(iter(versions.values()))


def check_dependencies(name: str, lines: Iterable[str], versions: Mapping[str, str]) -> None:
    """Raise ReleaseError unless each dependency is one of ours, with both bounds, or in THIRD_PARTY.

    versions: name → version of the distributions in this checkout; both bounds must admit it.
    """
    for line in lines:
        need = Requirement(line)
        dependency = canonicalize_name(need.name)
        if need.url:
            raise ReleaseError(f"{name} needs {line}: a URL is not accepted by the index; name a version")
        if dependency not in versions:
            if dependency not in THIRD_PARTY:
                raise ReleaseError(
                    f"{name} needs {line}: not a distribution of this repository, and not in THIRD_PARTY of "
                    "scripts/release_check.py"
                )
            continue
        operators = {bound.operator for bound in need.specifier}
        if not (operators & {">=", "~=", "=="} and operators & {"<", "<=", "~=", "=="}):
            raise ReleaseError(f"{name} needs {line}: give it a lower and an upper bound, such as >=0.1,<0.2")
        if not need.specifier.contains(versions[dependency], prereleases=True):
            raise ReleaseError(f"{name} needs {line}, but this release is {versions[dependency]}")


def build(project: Path, target: Path, repository: str = "") -> tuple[Path, Path]:
    """Build wheel and source archive from a copy with only the files that git knows, without earlier build output."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, project.name)
        for name in tracked(project):
            place = copy / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((project / name).read_bytes())
        if repository:
            add_addresses(copy, project.relative_to(ROOT).as_posix(), repository)
        source = run_backend(copy, target, "sdist")
        wheel = run_backend(copy, target, "wheel")
    return wheel, source


def add_addresses(copy: Path, folder: str, repository: str) -> None:
    """Add `[project.urls]` to a copy of a project, and make its README's links absolute, for the package index."""
    file, readme = copy / "pyproject.toml", copy / "README.md"
    tag = f"v{pyproject(copy)['project']['version']}"
    pages = (("Repository", ""), ("Issues", "/issues"), ("Changelog", f"/blob/{tag}/CHANGELOG.md"))
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(["\n[project.urls]\n", *(f'{name} = "{repository}{page}"\n' for name, page in pages)])

    def absolute(match: re.Match[str]) -> str:
        path, _, anchor = match[2].partition("#")
        kind = "raw" if path.endswith(".svg") else "blob"
        address = f"{repository}/{kind}/{tag}/{posixpath.normpath(posixpath.join(folder, path))}"
        return f"{match[1]}{address}{'#' if anchor else ''}{anchor}"

    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(r'(\]\(|src=")(?![a-z]+:|#)([^)\s"]+)', absolute, text), encoding="utf-8")


def tracked(project: Path) -> list[str]:
    """List the project's files that git does not ignore; for the root, only the umbrella's own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=project, capture_output=True, check=True)
    names = [name for name in done.stdout.decode().split("\0") if name and (project / name).is_file()]
    return names if project != ROOT else ["pyproject.toml", "README.md", "LICENSE"]


def run_backend(project: Path, target: Path, kind: str) -> Path:
    """Build a "wheel" or an "sdist" with setuptools; return the new file in `target`."""
    target.mkdir(parents=True, exist_ok=True)
    before = set(target.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), target], cwd=project, capture_output=True, text=True
    )
    if done.returncode:
        raise ReleaseError(f"{project.name}: building the {kind} failed: {done.stderr.strip().splitlines()[-1]}")
    (file,) = set(target.iterdir()) - before
    return file


def check(project: Path, wheel: Path, source: Path, versions: Mapping[str, str]) -> None:
    """Raise ReleaseError if the wheel or the source archive is incomplete, or has a dependency it must not have."""
    settings = pyproject(project)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata_file = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(metadata_file).decode())
    if metadata["Version"] != versions[canonicalize_name(metadata["Name"])] or not metadata.get_payload():
        raise ReleaseError(f"{wheel.name}: version {metadata['Version']}, or no README in it")
    lines = [*metadata.get_all("Requires-Dist", []), *settings["build-system"]["requires"]]
    check_dependencies(wheel.name, lines, versions)
    if missing := package_files(project, settings["tool"]["setuptools"]) - names:
        raise ReleaseError(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    with tarfile.open(source) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    for name in tracked(project):
        if name.endswith((".py", ".toml", ".typed", ".txt")) and name not in packed and not name.startswith("tests/"):
            raise ReleaseError(f"{source.name} lacks {name}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(source) as sdist:
            sdist.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        rebuilt = run_backend(unpacked, Path(folder, "rebuilt"), "wheel")
        with zipfile.ZipFile(rebuilt) as archive:
            difference = sorted(set(archive.namelist()) ^ names)
    if difference:
        raise ReleaseError(f"a wheel built from {source.name} has other files: {', '.join(difference)}")


def package_files(project: Path, settings: dict[str, Any]) -> set[str]:
    """Name every file that belongs into the wheel: the modules and the data of the listed packages."""
    names = set()
    for package in settings["packages"]:
        place = package_folder(project, package, settings.get("package-dir", {}))
        for pattern in ("*.py", *settings.get("package-data", {}).get(package, [])):
            names |= {
                f"{package.replace('.', '/')}/{file.relative_to(place).as_posix()}" for file in place.glob(pattern)
            }
    return names


def package_folder(project: Path, package: str, package_dir: dict[str, str]) -> Path:
    """Return the folder where setuptools looks for a package: below the nearest parent that package-dir names."""
    parts = package.split(".")
    for n in range(len(parts), 0, -1):
        if (parent := ".".join(parts[:n])) in package_dir:
            return project.joinpath(package_dir[parent], *parts[n:])
    return project.joinpath(*parts)


def check_checkout(root: Path, version: str) -> None:
    """Raise ReleaseError if something is not committed, or the changelog has no section for the version."""
    done = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    if done.stdout:
        raise ReleaseError(f"not committed: {done.stdout.split()[1]} and maybe others; commit, or pass --draft")
    if not re.search(rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md has no section `## {version}`; add it, or pass --draft")


def main() -> None:
    """Build and check, then print the command that uploads the files."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="new or empty [dist]")
    parser.add_argument("--draft", action="store_true", help="skip the checks for uncommitted changes and changelog")
    parser.add_argument("--only", metavar="NAME", action="append", help="only this distribution (repeatable)")
    parser.add_argument("--repository", metavar="URL", default="", help="for links from the index [none]")
    args = parser.parse_args()
    try:
        folders = projects(ROOT)
        versions = read_versions(folders)
        version = common_version(versions)
        if args.only and (unknown := set(args.only) - set(versions)):
            raise ReleaseError(f"--only {', '.join(sorted(unknown))}: no such distribution; {', '.join(versions)}")
        if not args.draft:
            check_checkout(ROOT, version)
        if args.folder.exists() and any(args.folder.iterdir()):
            raise ReleaseError(f"{args.folder} is not empty")
        for name, project in zip(versions, folders, strict=True):
            if args.only and name not in args.only:
                continue
            wheel, source = build(project, args.folder, args.repository.rstrip("/"))
            check(project, wheel, source, versions)
            print(f"{wheel.name}  {source.name}")
    except (ReleaseError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"release: {error}")
    print(f"checked; to upload: twine upload {args.folder}/*")


if __name__ == "__main__":
    main()
