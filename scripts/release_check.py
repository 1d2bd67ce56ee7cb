"""What `scripts/release` does: build wheels and source archives of all distributions, and check them."""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import setuptools.build_meta as b, sys; b.build_{}(sys.argv[1])"


class WrongError(Exception):
    """What stands in the way of a release, in one line."""


def projects(root: Path) -> list[Path]:
    """The folders of all distributions, the umbrella last."""
    found = [root / "pea", root / "pealm_core", *sorted((root / "plugins").iterdir())]
    return [path for path in (*found, root) if (path / "pyproject.toml").is_file()]


def table(project: Path) -> dict[str, Any]:
    """The [project] table."""
    found: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def one_version(folders: Iterable[Path]) -> str:
    """The version of all distributions. Raises WrongError where they differ, or a sibling would not accept it."""
    versions = {table(folder)["name"]: table(folder)["version"] for folder in folders}
    if len(set(versions.values())) != 1:
        raise WrongError(f"the versions differ: {', '.join(f'{k} {v}' for k, v in versions.items())}")
    (version,) = set(versions.values())
    for folder in folders:
        for line in table(folder).get("dependencies", []):
            need = Requirement(line)
            if need.name in versions and not need.specifier.contains(version, prereleases=True):
                raise WrongError(f"{table(folder)['name']} needs {line}, and this release is {version}")
    return str(version)


def build(project: Path, target: Path) -> tuple[Path, Path]:
    """Wheel and source archive of a folder's content as git has it: nothing that an earlier build left slips in."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, project.name)
        for name in tracked(project):
            place = copy / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((project / name).read_bytes())
        source = made(copy, target, "sdist")
        wheel = made(copy, target, "wheel")
    return wheel, source


def tracked(project: Path) -> list[str]:
    """The folder's files, without those that git ignores; of the root, only the umbrella's own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=project, capture_output=True, check=True)
    names = [name for name in done.stdout.decode().split("\0") if name and (project / name).is_file()]
    return names if (project / "pyproject.toml").parent != ROOT else ["pyproject.toml", "README.md", "LICENSE"]


def made(copy: Path, target: Path, kind: str) -> Path:
    """Run the build backend in the copy; gives the file that it made."""
    target.mkdir(parents=True, exist_ok=True)
    before = set(target.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), target],
        cwd=copy,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    if done.returncode:
        raise WrongError(f"{copy.name}: building the {kind} failed: {done.stderr.strip().splitlines()[-1]}")
    (file,) = set(target.iterdir()) - before
    return file


def check(project: Path, wheel: Path, source: Path, version: str) -> None:
    """Raise WrongError where wheel or archive lack something, or hold what does not belong there."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(about).decode())
    if metadata["Version"] != version or not metadata.get_payload():
        raise WrongError(f"{wheel.name}: version {metadata['Version']}, or no README in it")
    expected = {
        f"{package.replace('.', '/')}/{file.name}"
        for package in settings["packages"]
        for file in folder_of(project, package, settings.get("package-dir", {})).glob("*.py")
    }
    for package, patterns in settings.get("package-data", {}).items():
        place = folder_of(project, package, settings.get("package-dir", {}))
        found = (file for pattern in patterns for file in place.glob(pattern))
        expected |= {f"{package.replace('.', '/')}/{file.relative_to(place).as_posix()}" for file in found}
    if missing := expected - names:
        raise WrongError(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    with tarfile.open(source) as archive_:
        held = {name.partition("/")[2] for name in archive_.getnames()}
    for name in tracked(project):
        if name.endswith((".py", ".toml", ".typed", ".txt")) and name not in held and not name.startswith("tests/"):
            raise WrongError(f"{source.name} lacks {name}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(source) as archive_:
            archive_.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        again = made(unpacked, Path(folder, "again"), "wheel")
        with zipfile.ZipFile(again) as archive:
            if set(archive.namelist()) != names:
                different = sorted(set(archive.namelist()) ^ names)
                raise WrongError(f"{source.name} builds another wheel: {', '.join(different)}")


def folder_of(project: Path, package: str, places: dict[str, str]) -> Path:
    """Where setuptools finds a package: below the nearest parent that package-dir names."""
    parts = package.split(".")
    for n in range(len(parts), 0, -1):
        if (parent := ".".join(parts[:n])) in places:
            return project.joinpath(places[parent], *parts[n:])
    return project.joinpath(*parts)


def clean(root: Path, version: str) -> None:
    """Raise WrongError where something is not committed, or the changelog does not know the version."""
    done = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    if done.stdout:
        raise WrongError(f"not committed: {done.stdout.split()[1]} and others; commit, or pass --draft")
    if not re.search(rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE):
        raise WrongError(f"CHANGELOG.md has no section `## {version}`; name it, or pass --draft")


def main() -> None:
    """Build, check, and say what would be uploaded."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="new or empty [dist]")
    parser.add_argument("--draft", action="store_true", help="also from a checkout with changes")
    parser.add_argument("--only", metavar="NAME", action="append", help="only these distributions")
    given = parser.parse_args()
    try:
        folders = projects(ROOT)
        version = one_version(folders)
        if not given.draft:
            clean(ROOT, version)
        if given.folder.exists() and any(given.folder.iterdir()):
            raise WrongError(f"{given.folder} is not empty")
        for project in folders:
            if given.only and table(project)["name"] not in given.only:
                continue
            wheel, source = build(project, given.folder)
            check(project, wheel, source, version)
            print(f"{wheel.name}  {source.name}")
    except (WrongError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"release: {error}")
    print(f"checked; to upload them: twine upload {given.folder}/*")


if __name__ == "__main__":
    main()
