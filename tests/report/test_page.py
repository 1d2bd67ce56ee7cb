"""The page's text: all of it in one file, everything escaped, of a sane size."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_report.page import render
from pealm_report.reading import read

Make = Callable[..., Path]
NASTY = "</script><script>alert(1)</script><!--<b>&amp;"


def data(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*)</script>', page)
    return json.loads(text)


def test_one_run(pealm: Callable[..., Any], make_run: Make, add_evaluation: Any, add_samples: Any) -> None:
    run = make_run("r", parameters=12345, torch="2.13.0")
    add_evaluation(run, "hellaswag", acc_norm=(0.31, 0.01))
    add_samples(run, "Once upon a time")
    (run / "other.json").write_text("[]")
    (run / "broken.json").write_text("{")
    result = pealm("report", run)
    assert result.code == 0 and result.out == f"written: {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "done · best validation loss 1.2000 (floor 0.5000) · 50 of 50 steps · 5k tokens · 5.0 s" in page
    for text in ("12,345", "train.lr", "0.3100 ± 0.0100", "hellaswag.json, n = 200", "Once upon a time", "2.13.0"):
        assert text in page, text
    assert f"pealm train --config {run / 'config.toml'}" in page and "What differs" not in page
    (curves,) = data(page)
    assert curves["best"] == [40, 1.2] and curves["floor"] == 0.5 and curves["before"] == 7
    assert curves["val"] == [0, 7, 10, 1.8, 20, 1.4, 30, 1.2667, 40, 1.2, 50, 2.5]
    assert curves["axis"]["tokens"][-1] == 5000 and curves["axis"]["seconds"][-1] == 5


def test_a_study_is_charted_whole_and_its_best_runs_are_compared(
    pealm: Callable[..., Any], make_run: Make, tmp_path: Path
) -> None:
    for number in range(14):
        run = make_run(f"trial-{number:02}", lr=0.001 * 2**number, done=50 - number)
        config = (run / "config.toml").read_text().replace("sprout", "sprout" if number % 2 else "<b>")
        (run / "config.toml").write_text(config)
    folder = tmp_path / "runs"
    assert pealm("report", folder).code == 2
    (folder / "study.journal").touch()
    result = pealm("report", folder)
    assert result.code == 0 and result.out == f"written: {folder / 'report.html'}\n"
    page = (folder / "report.html").read_text()
    assert "<h1>Study runs</h1>" in page and "The 12 runs with the lowest loss; 2 more are in the charts" in page
    assert len(data(page)) == 12 and page.count('<circle class="dot') == 2 * 14 and "<b>" not in page
    lr, model = re.findall(r'<svg [^>]*aria-label="Best validation loss against (\S+)"', page)
    assert (lr, model) == ("train.lr", "model.name")
    xs = [float(x) for x in re.findall(r'cx="([^"]*)"[^>]*><title>[^<]*train.lr', page)]
    gaps = [b - a for a, b in zip(sorted(xs), sorted(xs)[1:], strict=False)]
    assert max(gaps) - min(gaps) < 0.3  # of a logarithmic scale


def test_the_command_repeats_the_run_from_any_folder_name(
    pealm: Callable[..., Any], book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import html
    import shlex

    run = tmp_path / "it's a <run>"
    assert (
        pealm("train", "char-bigram", "--input.text", book, "--steps", 3, "--sample-every", 2, "--out", run).code == 0
    )
    page = render([read(run)])
    assert "Samples over time" in page and page.count("<figcaption>step 2 ") == 1
    (command,) = re.findall(r"<code>(.*)</code>", page)
    monkeypatch.chdir(tmp_path)
    assert pealm(*shlex.split(html.unescape(command))[1:], "--out", tmp_path / "again").code == 0
    assert len((tmp_path / "again" / "metrics.jsonl").read_text().splitlines()) == 4  # the validation before them


def test_a_mixture_has_its_inputs_and_the_fraction_that_was_drawn(
    pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    config, run = tmp_path / "mixed.toml", tmp_path / "run"
    config.write_text(f"[[input]]\ntext = '{book}'\nweight = 3\n\n[[input]]\ntext = '{book}'\nval-fraction = 0.2\n")
    line = ["train", "char-bigram", "--config", config, "--steps", 40, "--batch-size", 100, "--eval-every", 0]
    assert pealm(*line, "--out", run).code == 0
    assert json.loads((run / "run.json").read_text())["drawn"] == {"text-1": 3000, "text-2": 1000}  # of 4,000 samples
    page = render([read(run)])
    for text in ("text + text", "text-1 75.00%, text-2 25.00%", "input.2.val-fraction"):
        assert text in page, text
    (run / "run.json").write_text('{"drawn": {"text-1": "many"}}')
    assert "Data drawn" not in render([read(run)])


def test_several_runs_and_what_differs(
    pealm: Callable[..., Any], make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run("a"), make_run("b", lr=0.02)]
    monkeypatch.chdir(tmp_path)
    assert pealm("report", *runs, runs[0]).out == "written: report.html\n"  # one that is named twice is there once
    page = (tmp_path / "report.html").read_text()
    differences = page[page.index('id="differences"') : page.index('id="settings"')]
    assert "train.lr" in differences and "train.steps" not in differences
    assert [run["name"] for run in data(page)] == ["a", "b"]


def test_nothing_that_a_run_holds_gets_out_of_its_place(
    make_run: Make, add_samples: Any, add_evaluation: Any
) -> None:
    run = make_run("<i>r<b>", device=NASTY)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('"sprout"', json.dumps(NASTY)))
    add_samples(run, NASTY, prompt=NASTY)
    add_evaluation(run, "hellaswag", **{NASTY: (0.5, 0.1)})
    page = render([read(run)])
    assert "alert(1)</script>" not in page and "<b>&amp;" not in page and "<i>r<b>" not in page
    assert page.count("</script>") == page.count("<script") == 2
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 5
    assert data(page)[0]["name"] == "<i>r<b>"


def test_it_asks_no_network_for_anything(make_run: Make) -> None:
    page = render([read(make_run("r"))])
    assert re.findall(r"https?://[^\"']*", page) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert re.findall(r"""(?:src|href)=["']([^"']*)""", page) == ["data:,"] and "@import" not in page


def test_a_long_run_makes_a_page_of_sane_size_with_every_spike(make_run: Make) -> None:
    run = make_run("r")
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, 60_001):
            loss = 1 / 3 + (9 if step == 31_313 else 1 / step) + step % 7 / 1000
            line = {"step": step, "tokens": 512 * step, "loss": loss, "lr": 1 / 3, "grad_norm": loss}
            line |= {"tokens_per_second": 1 / 3 + step, "seconds": step / 3, "val_loss": loss}
            file.write(json.dumps(line) + "\n")
    page = render([read(run)])
    assert len(page) < 200_000
    (curves,) = data(page)
    assert curves["loss"][curves["loss"].index(31_313) + 1] == pytest.approx(9.33, abs=0.01)
    assert curves["loss"][-2] == 60_000


def test_a_run_that_has_just_begun_has_a_page(make_run: Make) -> None:
    run = make_run("r", done=0, status="running", first_val_loss=float("nan"))
    (run / "metrics.jsonl").unlink()
    page = render([read(run)])
    assert data(page)[0]["loss"] == []


@pytest.mark.parametrize(("target", "words"), [("nowhere/x.html", "there is no folder"), (".", "is a folder; give")])
def test_where_it_can_t_be_written(pealm: Callable[..., Any], make_run: Make, target: str, words: str) -> None:
    run = make_run("r")
    result = pealm("report", run, "--output", run / target)
    assert result.code == 2 and words in result.err


def test_the_machine_the_commit_and_the_study_of_a_run(
    pealm: Callable[..., Any], book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    (code := tmp_path / "code").mkdir()
    monkeypatch.chdir(code)
    git("init", "-q")
    (code / "model.py").write_text("first")
    git("add", "model.py")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    (code / "model.py").write_text("second")
    (tmp_path / "study" / "study.journal").parent.mkdir()
    (tmp_path / "study" / "study.journal").write_text("")
    run = tmp_path / "study" / "trial-0000"
    assert (
        pealm("train", "char-bigram", "--input.text", book, "--block-size", 8, "--steps", 2, "--out", run).code == 0
    )
    assert pealm("report", run).code == 0
    page = (run / "report.html").read_text()
    commit = git("rev-parse", "--short=12", "HEAD")
    assert f"<dt>Git commit</dt><dd>{commit}-dirty</dd>" in page
    assert "<dt>Study</dt><dd>study</dd>" in page and f"{os.cpu_count()} CPUs" in page
    monkeypatch.chdir(run)
    assert "<dt>Study</dt><dd>study</dd>" in render([read(Path())])
    (run / "machine.json").write_text('{"cpu": "<b>", "cpus": [], "memory": 1e400, "git": ["x"]')
    assert pealm("report", run).code == 0
    assert "Git commit" not in (run / "report.html").read_text()


def test_the_help_says_where_evaluations_come_from(pealm: Callable[..., Any]) -> None:
    assert "the results that `pealm eval --ckpt RUN` keeps" in " ".join(pealm("report", "--help").out.split())


def test_what_else_is_measured_has_a_chart(make_run: Make) -> None:
    first, second = make_run("a"), make_run("b")
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    for line in lines[10::10]:
        line["hellaswag/acc"] = 0.25 + line["step"] / 1000
        line["val_bits_per_byte"] = 2.0
    lines[5] |= {f"junk{i}": 1.0 for i in range(100)} | {"long" * 30: 1.0, "text": "x", "</figure>": 1.0}
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render([read(first), read(second)])
    assert (
        '<figure data-chart="more/hellaswag/acc"><figcaption>hellaswag/acc</figcaption></figure>' not in page
    )  # 24 first
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines if line["step"] != 5))
    page = render([read(first), read(second)])
    assert '<figure data-chart="more/hellaswag/acc"><figcaption>hellaswag/acc</figcaption></figure>' in page
    a, b = data(page)
    assert (
        a["more/hellaswag/acc"] == [10, 0.26, 20, 0.27, 30, 0.28, 40, 0.29, 50, 0.3] and "more/hellaswag/acc" not in b
    )
    assert "Bits per byte at the best" in page


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ('[tokenizer]\nname = "bpe"\n', "different tokenizers: losses per token can"),
        ('[objective]\nname = "denoise"\n', "different objectives"),
        ("[input]\ntinyshakespeare = true\n", "different data"),
        ("", None),
    ],
)
def test_it_says_when_losses_can_t_be_compared(change: str, warning: str | None, make_run: Make) -> None:
    first, second = make_run("a"), make_run("b")
    text = (second / "config.toml").read_text()
    if change.startswith("[input]"):
        text = re.sub(r"\[input\]\n[^\[]*", "", text)
    (second / "config.toml").write_text(text + "\n" + change)
    page = render([read(first), read(second)])
    told = re.findall("<p><strong>The runs have (.*?)</strong></p>", page.replace("&#39;", "'"))
    assert len(told) == (warning is not None) and (warning is None or told[0].startswith(warning))
    second_size = json.loads((second / "run.json").read_text()) | {"vocab_size": 99}
    (second / "run.json").write_text(json.dumps(second_size))
    assert "different tokenizers" in render([read(first), read(second)])
    assert "The runs have" not in render([read(first)])
