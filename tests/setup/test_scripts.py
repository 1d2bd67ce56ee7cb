"""`scripts/test`, `scripts/quickstart` and `.ci/run` call the right commands, from any directory."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from pealm_kindergarten import parse, split
from pealm_kindergarten.questions import questions

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ruff", "mypy", "lint-imports", "pytest", "pealm")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the scripts, with commands that only record their calls."""
    root = tmp_path / "a folder"
    for script in ("scripts/test", "scripts/quickstart", ".ci/run"):
        (root / script).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / script, root / script)
    (root / "plugins" / "one" / "pealm_one").mkdir(parents=True)
    for command in ("scripts/setup", "scripts/browser", *(f".venv/bin/{name}" for name in TOOLS)):
        path = root / command
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.name
        path.write_text(
            f'#!/bin/sh\necho "{name}${{*:+ $*}}" >>"{root}/called"\nif [ "$FAILS" = {name} ]; then exit 7; fi\n'
        )
        path.chmod(0o755)
    return root


def run(script: Path, *args: str, **environment: str) -> tuple[int, str, list[str]]:
    """Return the exit status, the output and the commands that were called."""
    called = script.parents[1] / "called"
    called.unlink(missing_ok=True)
    done = subprocess.run([script, *args], cwd="/", env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, called.read_text().splitlines()


STAGES = ["setup", "browser", "ruff", "ruff", "mypy", "lint-imports", "pytest"]


def test_the_test_script(tree: Path) -> None:
    code, out, called = run(tree / "scripts" / "test", "-k", "one thing")
    assert code == 0
    assert [line.split()[0] for line in called] == STAGES
    assert "plugins/one/pealm_one" in called[4] and called[-1].endswith(" -k one thing")
    assert [line[2:] for line in out.splitlines() if line.startswith("$ ")] == called[2:]  # the reader sees each


@pytest.mark.parametrize("fails", sorted({*STAGES} - {"browser"}))
def test_it_stops_at_the_first_failure(tree: Path, fails: str) -> None:
    code, _, called = run(tree / "scripts" / "test", FAILS=fails)
    assert code == 7
    assert len(called) == STAGES.index(fails) + 1


@pytest.mark.parametrize("apt", ["works", "fails"])
def test_the_browser_is_installed_where_it_can_be(tmp_path: Path, apt: str) -> None:
    """With an apt-get that only records its calls, as root or not."""
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/called"\n[ {apt} = works ]\n')
    (tmp_path / "apt-get").chmod(0o755)
    for name in ("bash", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run([ROOT / "scripts" / "browser"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    if os.geteuid() != 0:
        assert not (tmp_path / "called").exists() and not done.stdout
        return
    called = (tmp_path / "called").read_text().splitlines()
    assert called[0] == "install -qq -y --no-install-recommends chromium graphviz"
    assert len(called) == (1 if apt == "works" else 2)  # the lists of packages are not brought up to date in vain
    assert ("not installed; its tests are skipped" in done.stdout) == (apt == "fails")


def test_ci_calls_just_the_test_script(tree: Path) -> None:
    assert run(tree / ".ci" / "run")[2] == run(tree / "scripts" / "test")[2]


def test_quickstart(tree: Path) -> None:
    script = tree / "scripts" / "quickstart"
    runs = []
    for _ in range(2):
        code, out, called = run(script, "--max-seconds", "5")
        assert code == 0
        _, train, sample, evaluate, teach, count, again, talk = called
        folder = train.split("--out ")[1].split()[0]
        assert train.startswith("pealm train sprout --preset reader --input.kindergarten-questions ")
        assert " --max-seconds 60 " in train
        assert train.endswith(" --max-seconds 5")
        assert sample.startswith(f"pealm sample --ckpt {folder} ")
        assert evaluate == f"pealm eval --ckpt {folder} --on kindergarten"
        assert teach.startswith(f"pealm train sprout --preset chat --init {folder} --input.kindergarten-questions ")
        assert " --max-seconds 60 " in teach and teach.endswith(f" --out {folder}-questions")
        assert count == f"pealm eval --ckpt {folder}-questions --on kindergarten-questions"
        assert again == f"pealm eval --ckpt {folder}-questions --on kindergarten"
        assert talk == f"pealm chat --ckpt {folder}-questions --temperature 0"
        assert [line[2:] for line in out.splitlines() if line.startswith("$ ")] == called[1:]
        assert len([line for line in out.splitlines() if line.startswith("> ")]) == 4  # a story and three questions
        assert f"The runs are in {tree}/{folder} and {tree}/{folder}-questions\n" in out
        assert f"\n  pealm chat --ckpt {folder}-questions  " in out
        (tree / folder).mkdir(parents=True)
        runs.append(folder)
    assert runs[0] != runs[1]
    assert all(folder.startswith("runs/quickstart/") for folder in runs)


def test_the_story_of_the_quickstart_is_new_to_its_model() -> None:
    script = (ROOT / "scripts" / "quickstart").read_text().replace("\\\n", "")
    story = script.partition('story="')[2].partition('"')[0]
    derivation = parse(story)
    assert derivation is not None and split(story) == "val"
    asked = script.partition("questions=(")[2].partition(")")[0].strip('"').split('" "')
    known = {question.text: question.answer for question in questions(derivation, random.Random(0))}
    assert [known[text] for text in asked] == ["It was blue.", "It was Uncle Ben.", "The story does not say."]


def test_quickstart_stops_where_training_does(tree: Path) -> None:
    code, out, called = run(tree / "scripts" / "quickstart", FAILS="pealm")
    assert (code, len(called)) == (7, 2)
    assert "The runs are in" not in out
