"""The pyproject.toml files list exactly the packages that exist; an editable install would hide a mistake."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import pealm_core
from pealm_core.plugins.loading import NOT_IN_UMBRELLA
from pealm_evals.evaluation import Evaluation

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = sorted(
    path.parent for pattern in ("pea", "pealm_core", "plugins/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")
)


def read(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))


def folder_of(package: str, package_dir: dict[str, str]) -> Path:
    """Return where setuptools looks for a package: below the nearest parent that `package-dir` names."""
    parts = package.split(".")
    for n in range(len(parts), 0, -1):
        if (parent := ".".join(parts[:n])) in package_dir:
            return Path(package_dir[parent], *parts[n:])
    return Path(package_dir.get("", "."), *parts)


def code_folders(project: Path) -> set[Path]:
    """Return every folder with Python files, without build output."""
    folders = {file.parent.relative_to(project) for file in project.rglob("*.py")}
    return {f for f in folders if not {"build", "dist", "__pycache__"} & set(f.parts)}


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_every_package_is_listed_and_there(project: Path) -> None:
    settings = read(project)["tool"]["setuptools"]
    folders = [folder_of(name, settings.get("package-dir", {})) for name in settings["packages"]]
    assert len(set(folders)) == len(folders)
    assert set(folders) == code_folders(project)


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_every_listed_file_is_there(project: Path) -> None:
    """A `package-data` pattern that matches nothing is ignored silently; so is an empty README."""
    table = read(project)
    settings = table["tool"]["setuptools"]
    for package, patterns in settings.get("package-data", {}).items():
        for pattern in patterns:
            assert list((project / folder_of(package, settings.get("package-dir", {}))).glob(pattern)), pattern
    assert (project / table["project"]["readme"]).stat().st_size > 0


def test_git_ignores_no_code() -> None:
    """A folder such as `data` is easily swept up by .gitignore, and then it is missing from every clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = [str(file) for project in PROJECTS for file in project.rglob("*.py") if "build" not in file.parts]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(files),
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""


# Not dependencies of the umbrella: they need a large package that few use.
OPTIONAL = ["pealm-hf-datasets", "pealm-lm-eval", "pealm-tensorboard", "pealm-wandb"]


def test_the_umbrella_needs_every_distribution() -> None:
    root = read(ROOT)
    names = sorted(read(project)["project"]["name"] for project in PROJECTS)
    needed = [Requirement(line).name for line in root["project"]["dependencies"]]
    assert sorted([*needed, *OPTIONAL]) == names
    assert ", ".join(OPTIONAL) == NOT_IN_UMBRELLA  # as the error for an unknown component says
    assert sorted(root["tool"]["uv"]["sources"]) == names


def test_every_python_that_the_metadata_names_is_tested_on_every_system() -> None:
    yaml = pytest.importorskip("yaml")
    named = {line.rpartition(" ")[2] for line in read(ROOT)["project"]["classifiers"] if ":: Python :: 3." in line}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    assert (
        {*jobs["linux"]["strategy"]["matrix"]["python"]} == {*jobs["others"]["strategy"]["matrix"]["python"]} == named
    )
    assert {*jobs["others"]["strategy"]["matrix"]["os"]} == {"macos-latest", "windows-latest"}


def test_every_distribution_has_a_job_of_its_own() -> None:
    """What scripts/proof/fresh_installs.sh runs where the distribution is installed alone."""
    text = (ROOT / "scripts" / "proof" / "jobs.sh").read_text(encoding="utf-8")
    jobs = set(re.findall(r"^ +(pealm[a-z0-9-]*)\)", text, re.MULTILINE))
    assert jobs == {read(project)["project"]["name"] for project in [*PROJECTS, ROOT]}


def test_the_evaluations_in_these_jobs_take_their_options() -> None:
    text = (ROOT / "scripts" / "proof" / "jobs.sh").read_text(encoding="utf-8")
    lines = re.findall(r"&& evaluate (--on [^;\n]+)", text)
    assert len(lines) >= 4
    for line in lines:
        _, name, *words = line.split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        limit = options.pop("--limit", None)
        assert all(option.startswith("--eval.") for option in options), line
        table = {option.removeprefix("--eval."): value for option, value in options.items()}
        job = pealm_core.plan_evaluation({"model": {"name": "char-bigram"}}, {"eval": {"name": name} | table})
        with pealm_core.processes("cpu") as (world, _):
            Evaluation(job, world, limit=limit and int(limit))


def test_every_name_is_one_of_ours() -> None:
    """Plain `pea` on the index is another project: `pip install pealm` would run its code."""
    assert all(read(project)["project"]["name"].startswith("pealm-") for project in PROJECTS)


def test_pip_and_uv_pin_the_same() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == read(ROOT)["tool"]["uv"]["constraint-dependencies"]


ROOMS = ("cli", "training", "inference", "checkpoints", "data", "hardware", "config", "plugins", "contract")


def test_the_core_is_nine_rooms_of_short_modules() -> None:
    """A module of over 250 lines wants to be two; a room says in its docstring what belongs in it."""
    core = ROOT / "pealm_core"
    rooms = {path.parent.name for path in core.glob("*/__init__.py")} - {"_pealm"}
    assert rooms == set(ROOMS)
    for room in ROOMS:
        assert (core / room / "__init__.py").read_text(encoding="utf-8").startswith('"""'), room
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("To follow `pealm train`")[2]
    modules = re.findall(rf"`((?:{'|'.join(ROOMS)})/\w+)`", text.partition("in this order")[0])
    assert modules and all((core / f"{name}.py").is_file() for name in modules)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in core.rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length > 250} == {}
    # So that it doesn't grow: for what comes, something goes, or moves to a plugin or library. Lower it when you can.
    assert sum(lengths.values()) <= 9_700
