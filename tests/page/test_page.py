"""The page in Debian's Chromium: what it shows are the model's numbers; keyboard, themes, widths, contrast and names."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_core import LM

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
expect = playwright.expect
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM} (apt-get install chromium)")
QUIET = "disable-background-networking disable-component-update disable-gpu disable-quic disable-sync no-first-run no-sandbox"
TOKEN = ".tokens [role=option]"
VIEWS = ("Write", "Chat", "Inside", "Compare", "Runs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        options = [f"--{option}" for option in QUIET.split()]
        browser = library.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, served: str) -> Iterator[Any]:
    """The page, opened; at the end: no error in the console, and no request to anywhere else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    context.set_default_timeout(20_000)
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(served) else wrong.append(request.url))
    page.goto(served)
    yield page
    context.close()
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    assert not [message for message in wrong if message != refused]


@pytest.fixture(scope="module")
def lm(run: Path) -> LM:
    return pealm_core.load(run, device="cpu")


def view(page: Any, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")


def idle(page: Any) -> None:
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def slide(page: Any, name: str, value: float) -> None:
    page.get_by_role("slider", name=name).fill(str(value))


def text_of(page: Any) -> str:
    """What the row of tokens says, with line breaks as they are."""
    return "".join(page.locator(TOKEN).all_text_contents()).replace("⏎\n", "\n")


def write(page: Any, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Seed").fill("5")
    slide(page, "Tokens", 20)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator(TOKEN)).to_have_count(len(prompt) + 20)
    idle(page)


def test_write_shows_the_models_text_and_surprise(page: Any, lm: LM) -> None:
    write(page, "the quick")
    expected = lm.samples(["the quick"], max_new_tokens=20, seed=5)[0]
    assert text_of(page) == "the quick" + expected.text
    option = page.locator(TOKEN).nth(9)
    bits = -expected.logprobs[0] / math.log(2)
    expect(option).to_have_attribute("title", re.compile(rf"%, {bits:.1f} bits"))
    share = float(option.evaluate("span => span.style.getPropertyValue('--surprise').slice(0, -1)"))
    assert share == pytest.approx(min(100, 10 * bits), abs=0.1)


def test_another_token_grows_a_branch(page: Any, lm: LM) -> None:
    write(page, "the quick")
    text = text_of(page)
    page.locator(TOKEN).nth(12).click()
    expect(page.get_by_role("heading", name=re.compile("Instead of"))).to_be_visible()
    bars = page.get_by_role("list", name=re.compile("Instead of")).get_by_role("button")
    expect(bars).to_have_count(20)
    chosen = bars.and_(page.locator("[aria-current=true]"))
    expect(chosen).to_have_count(1)  # the token that is there
    prefix, others = lm.encode(text[:12]), bars.locator("b").all_text_contents()
    best = lm.trace(prefix).top(20)[-1]
    assert [other.replace("␣", " ") for other in others] == [lm.tokenizer.decode([i]) for i, _ in best]
    number = next(i for i, other in enumerate(others) if other.replace("␣", " ") != text[12])
    bars.nth(number).click()
    expect(page.locator(".branches li")).to_have_count(3)  # what both have in common, and two branches
    idle(page)
    other = text_of(page)
    assert other.startswith(text[:12] + others[number].replace("␣", " ")) and len(other) == 13 + 20
    page.locator(".branches button").nth(1).click()  # back to the first branch
    expect(page.locator(TOKEN)).to_have_count(len(text))
    assert text_of(page) == text


def test_settings_change_the_bars_live(page: Any) -> None:
    write(page, "the quick")
    note = page.get_by_text(re.compile("tokens can be drawn"))
    expect(note).to_contain_text(re.compile(r"(\d+) of \1 tokens"))
    slide(page, "Top-k", 3)
    expect(note).to_contain_text(re.compile(r"entropy; 3 of \d+ tokens"))
    bars = page.locator(".bars button")
    widest = bars.locator("i").evaluate_all("bars => Math.max(...bars.map(bar => parseFloat(bar.style.width)))")
    assert widest == pytest.approx(100)  # however small the probabilities are
    expect(bars.nth(3)).to_have_attribute("aria-label", re.compile("with these settings never"))
    slide(page, "Temperature", 0)
    expect(note).to_contain_text(re.compile(r"entropy; 1 of \d+ tokens"))
    expect(bars.nth(0)).to_have_attribute("aria-label", re.compile("with these settings 100 %"))


def test_chat(page: Any) -> None:
    view(page, "Chat")
    expect(page.get_by_text("has no chat layout")).to_be_visible()  # of the first model
    page.get_by_label("Model").select_option("talk")
    page.get_by_label("Your message").fill("Hello ab!")
    slide(page, "Temperature", 0)
    page.keyboard.press("Tab")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".turn.assistant p")).to_have_text("Good day.")
    idle(page)
    page.get_by_label("Your message").fill("Hello " + "ab!" * 9)
    page.get_by_label("Your message").press("Enter")
    expect(page.get_by_text("The context is full: the 2 oldest messages are left out.")).to_be_visible()
    idle(page)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_inside_shows_the_trace(page: Any, lm: LM) -> None:
    trace = lm.trace("the quick brown")
    assert trace.attention is not None
    view(page, "Inside")
    page.get_by_label("Text", exact=True).fill("the quick brown")
    page.get_by_role("button", name="Look inside").click()
    expect(page.locator(TOKEN)).to_have_count(15)
    expect(page.get_by_role("button", name=re.compile("Layer . head ."))).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile(r"Layer \d, head \d"))).to_have_count(4)
    page.get_by_role("button", name="Layer 2, head 1").click()
    page.locator(TOKEN).nth(9).hover()
    row = trace.attention[1, 0, 9]
    summary = page.get_by_text(re.compile("Layer 2, head 1:"))
    expect(summary).to_contain_text(f"{round(100 * float(row.max()))} %")
    expect(page.locator(".arcs path")).to_have_count(int((row * 255).round().div(255).ge(0.02).sum()))
    rows = page.get_by_role("region", name="Predictions of each layer").get_by_role("row")
    expect(rows).to_have_count(4)  # the head, two layers and the embedding
    for number, layer in enumerate((2, 1, 0), 1):
        token, p = trace.top(1, layer)[9][0]
        guess = lm.tokenizer.decode([token]).replace(" ", "␣")
        expect(rows.nth(number).get_by_role("cell").nth(0)).to_contain_text(guess)
        assert p > 0.0995 and f"{round(100 * p)} %" in rows.nth(number).get_by_role("cell").nth(0).inner_text()
    lens = page.get_by_role("region", name="Logit lens, all tokens")
    expect(lens.get_by_role("row")).to_have_count(4)
    expect(lens.get_by_role("cell")).to_have_count(3 * 15)
    expect(page.get_by_role("list", name="Nearest to space").get_by_role("listitem")).to_have_count(20)
    canvas = page.get_by_role("img", name=re.compile("Attention of layer 2, head 1"))
    shades = canvas.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, 15, 15).data].filter((_, i) => i % 4 == 3)"
    )
    assert shades[9 * 15 + 10] == 0 and shades[int(9 * 15 + row.argmax())] == max(shades[9 * 15 : 9 * 15 + 10]) > 0


def test_compare_uses_one_seed(page: Any, run: Path) -> None:
    view(page, "Compare")
    page.get_by_label("Left").select_option("fox, step 20")
    page.get_by_label("Right").select_option("fox, step 40")
    page.get_by_label("Prompt").fill("the")
    slide(page, "Tokens", 15)
    page.get_by_role("button", name="Write both").click()
    expect(page.locator(TOKEN)).to_have_count(2 * 18)
    idle(page)
    texts = ["".join(row.get_by_role("option").all_text_contents()) for row in page.locator(".tokens").all()]
    steps = [pealm_core.load(run / "checkpoints" / f"step-000000{step}", device="cpu") for step in (20, 40)]
    assert texts == [lm.generate("the", max_new_tokens=15, seed=1) for lm in steps]
    later = run / "checkpoints" / "step-00000060"
    try:
        view(page, "Write")
        shutil.copytree(run / "best", later)  # meanwhile the run has another checkpoint
        view(page, "Compare")
        expect(page.get_by_label("Right").get_by_role("option", name="fox, step 60")).to_have_count(1)
        expect(page.get_by_label("Right").locator("option:checked")).to_have_text("fox, step 40")
    finally:
        shutil.rmtree(later)
    view(page, "Write")
    view(page, "Compare")
    expect(page.get_by_label("Left").get_by_role("option", name="fox, step 60")).to_have_count(0)
    page.get_by_role("button", name="Watch fox learn").click()
    expect(page.get_by_role("article").get_by_role("heading")).to_have_text(["fox, step 20", "fox, step 40"])
    expect(page.get_by_text("15 tokens, ")).to_have_count(2)
    idle(page)


def test_runs_follows_a_run_that_trains(page: Any, run: Path) -> None:
    kept = {name: (run / name).read_bytes() for name in ("run.json", "metrics.jsonl", "samples.jsonl")}
    facts = json.loads(kept["run.json"])
    try:
        (run / "run.json").write_text(json.dumps({**facts, "status": "running", "host": "elsewhere"}))
        view(page, "Runs")
        about = page.get_by_text(re.compile("best validation loss"))
        expect(about).to_contain_text("running · step 40")
        expect(page.get_by_role("img", name=re.compile("^Loss by step"))).to_be_visible()
        expect(page.get_by_role("img")).to_have_count(4)
        line = {"step": 41, "tokens": 30_000, "loss": 0.5, "val_loss": 0.25, "lr": 1e-4, "grad_norm": 1.0}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        with (run / "samples.jsonl").open("a") as file:
            file.write(json.dumps({"step": 41, "tokens": 30_000, "prompt": "the", "text": " end"}) + "\n")
        expect(about).to_contain_text("running · step 41 · 30,000 tokens · best validation loss 0.2500 at step 41")
        expect(page.get_by_role("img", name=re.compile("validation 0.25"))).to_be_visible()
        expect(page.locator(".sample").first).to_have_text("the end")
        (run / "aside").write_bytes(kept["run.json"])
        (run / "aside").rename(run / "run.json")  # as runs do
        expect(about).to_contain_text("done · step 41")
    finally:
        for name, content in kept.items():
            (run / name).write_bytes(content)


def test_by_keyboard_alone(page: Any) -> None:
    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if (
                page.get_by_label(name)
                .or_(page.get_by_role("button", name=name))
                .and_(page.locator(":focus"))
                .count()
            ):
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to("Prompt")
    page.keyboard.type("the")
    page.keyboard.press("Control+Enter")
    expect(page.locator(TOKEN)).to_have_count(63)
    idle(page)
    tab_to("Text, token by token")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(TOKEN).nth(2)).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("heading", name="Instead of “e”")).to_be_visible()
    view(page, "Inside")
    tab_to("Text")
    page.keyboard.type("the fox")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Layer 1, head 1")).to_have_attribute("aria-pressed", "true")
    tab_to("Layer 1, head 1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Layer 2, head 2")).to_be_focused()
    expect(page.get_by_text(re.compile("Layer 2, head 2:"))).to_be_visible()


def test_the_theme_is_kept(page: Any) -> None:
    dark = lambda: page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")  # noqa: E731
    light = dark()
    page.get_by_role("button", name="Dark theme").click()
    expect(page.get_by_role("button", name="Light theme")).to_be_visible()
    changed = dark()
    assert changed != light
    page.reload()
    expect(page.get_by_role("button", name="Light theme")).to_be_visible()
    assert dark() == changed


def test_an_error_is_shown(page: Any) -> None:
    page.get_by_label("Prompt").fill("€")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("can't be encoded")
    expect(page.get_by_role("button", name="Write", exact=True)).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_roles_and_contrast_at_every_width(browser: Any, served: str, theme: str) -> None:
    """No rule of WCAG 2.2 AA that axe knows is broken, and nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(
        viewport={"width": 360, "height": 800}, color_scheme=theme, bypass_csp=True
    )  # for axe
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(served)
    write(page, "the quick")
    page.locator(TOKEN).nth(12).click()
    expect(page.locator(".bars button")).to_have_count(20)
    for name in VIEWS:
        view(page, name)
        if name == "Chat":
            page.get_by_label("Model").select_option("talk")
        elif name == "Inside":
            page.get_by_label("Text", exact=True).fill("Hello")
            page.get_by_role("button", name="Look inside").click()
            expect(page.locator(".near li").first).to_be_visible()
        elif name == "Compare":
            page.get_by_role("button", name="Write both").click()
            expect(page.get_by_text("tokens, ")).to_have_count(2)
            idle(page)
        elif name == "Runs":
            expect(page.get_by_role("img")).to_have_count(4)
        for width in (360, 800, 1600):
            page.set_viewport_size({"width": width, "height": 800})
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name} is {over} pixels wider than {width}"
        page.set_viewport_size({"width": 360, "height": 800})
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = axe.run(page, options={"runOnly": tags}).response["violations"]
        assert not found, "\n".join(
            f"{name}: {v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary']}" for v in found
        )
    context.close()
