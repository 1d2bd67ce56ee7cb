"""The hooks of a run: pluggy's order and wrappers, and errors that stop nobody else."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pealm_core.contract.errors import PluginError
from pealm_core.plugins.loading import PluginHost

HOOK = "from pealm_core import hookimpl\n@hookimpl{}\ndef pealm_metrics({}):\n    {}\n"
END = "from pealm_core import hookimpl\n@hookimpl{}\ndef pealm_run_end({}):\n    {}\n"


def seen(host: PluginHost) -> list[str]:
    """What the plugins write down at a step."""
    names: list[str] = []
    host.call("pealm_metrics", trainer=None, step=1, metrics={"seen": names})
    return names


def writer(name: str, options: str = "") -> str:
    return HOOK.format(options, "metrics", f"metrics['seen'].append('{name}')")


def test_plugins_are_called_in_the_order_of_discovery(stranger: Callable[..., None]) -> None:
    for name in "bac":
        stranger(f"pealm-{name}", writer(name))
    assert seen(PluginHost.installed()) == ["a", "b", "c"]


def test_tryfirst_and_trylast_change_the_order(stranger: Callable[..., None]) -> None:
    stranger("pealm-a", writer("a", "(trylast=True)"))
    stranger("pealm-b", writer("b"))
    stranger("pealm-c", writer("c", "(tryfirst=True)"))
    assert seen(PluginHost.installed()) == ["c", "b", "a"]


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_a_wrapper_runs_around_the_others(stranger: Callable[..., None], option: str) -> None:
    body = "metrics['seen'].append('before')\n    yield\n    metrics['seen'].append('after')"
    stranger("pealm-a", writer("a"))
    stranger("pealm-b", HOOK.format(f"({option}=True)", "metrics", body))
    stranger("pealm-c", writer("c"))
    assert seen(PluginHost.installed()) == ["before", "a", "c", "after"]


def test_a_function_of_another_name_is_called_for_the_hook_that_it_names(stranger: Callable[..., None]) -> None:
    stranger("pealm-a", writer("a", "(specname='pealm_metrics')").replace("def pealm_metrics", "def note"))
    assert seen(PluginHost.installed()) == ["a"]


def test_an_error_names_plugin_hook_and_step(stranger: Callable[..., None]) -> None:
    stranger("pealm-c", HOOK.format("", "", "raise KeyError('lost')"))
    host = PluginHost.installed()
    with pytest.raises(PluginError, match=r"pealm-c/c: pealm_metrics failed at step 7: KeyError: 'lost'"):
        host.call("pealm_metrics", trainer=None, step=7, metrics={})


@pytest.mark.parametrize(
    "failing",
    [
        END.format("", "status", "raise RuntimeError('boom')"),
        END.format("", "status", "raise SystemExit('boom')"),
        END.format("(wrapper=True)", "", "raise RuntimeError('boom')\n    yield"),
        END.format("(wrapper=True)", "", "yield\n    raise RuntimeError('boom')"),
        END.format("(hookwrapper=True)", "", "yield\n    raise RuntimeError('boom')"),
        END.format("(wrapper=True)", "", "yield\n    yield"),
    ],
)
@pytest.mark.parametrize("name", ["a", "z"])
def test_the_end_of_a_run_reaches_every_plugin_whichever_fails(
    stranger: Callable[..., None], failing: str, name: str
) -> None:
    stranger(f"pealm-{name}", failing)
    stranger("pealm-m", END.format("", "trainer, status", "trainer.append(status)"))
    host, told = PluginHost.installed(), list[str]()
    with pytest.raises(PluginError, match=rf"pealm-{name}/{name}: pealm_run_end failed: .*(boom|didn't stop)"):
        host.call("pealm_run_end", trainer=told, status="done")
    assert told == ["done"]


def test_each_of_several_errors_is_named(stranger: Callable[..., None]) -> None:
    for name in "ba":
        stranger(f"pealm-{name}", END.format("", "", f"raise RuntimeError('{name}')"))
    with pytest.raises(PluginError, match=r"pealm-a/a: .*: a \(.*, line 4, .*; pealm-b/b: .*: b \("):
        PluginHost.installed().call("pealm_run_end", trainer=None, status="done")


@pytest.mark.parametrize("option", ["", "(wrapper=True)"])
def test_an_observer_that_fails_is_named_once_and_not_called_again(
    stranger: Callable[..., None], pealm: Callable[..., Any], book: Path, tmp_path: Path, option: str
) -> None:
    body = f"if step > 1:\n        raise RuntimeError('boom')\n    {'yield' if option else ''}"
    stranger("pealm-a", HOOK.format(option, "step", body) + END.format("", "", "print('a is told')"))
    note = "print('step', step, file=sys.stderr)"
    stranger("pealm-b", "import sys\n" + HOOK.format("", "step", note) + END.format("", "status", "print(status)"))
    args = ("train", "char-bigram", "--input.text", book, "--block-size", 8, "--steps", 5, "--out", tmp_path / "r")
    result = pealm(*args)
    assert result.code == 0
    named = r"pealm-a/a: pealm_metrics failed at step 2: RuntimeError: boom \([\w.]+, line \d+, pealm_metrics\).*; the run continues without it"
    assert result.err.count("pealm-a") == 1 and re.search(named, result.err)
    assert [line for line in result.err.splitlines() if line.startswith("step ")] == [
        f"step {n}" for n in range(1, 6)
    ]
    assert "a is told" not in result.out + result.err and "done" in result.out


def test_an_interrupt_in_a_hook_passes(stranger: Callable[..., None]) -> None:
    stranger("pealm-a", END.format("", "", "raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        PluginHost.installed().call("pealm_run_end", trainer=None, status="done")


EVAL_MODEL = "from pealm_core import hookimpl\n@hookimpl\ndef pealm_eval_model(trainer):\n    {}\n"


def test_results_come_with_the_plugin_that_gave_them(stranger: Callable[..., None]) -> None:
    stranger("pealm-a", EVAL_MODEL.format("return None"))
    stranger("pealm-b", EVAL_MODEL.format("return 'averaged'"))
    stranger("pealm-c", EVAL_MODEL.format("return 'another'"))
    results = PluginHost.installed().call("pealm_eval_model", trainer=None)
    assert results == [("pealm-b/b", "averaged"), ("pealm-c/c", "another")]


def test_the_host_knows_whose_hook_runs(stranger: Callable[..., None]) -> None:
    note = "trainer.seen.append(trainer.host.current)"
    stranger("pealm-a", END.format("", "trainer", note))
    stranger("pealm-b", END.format("(wrapper=True)", "trainer", f"{note}\n    yield\n    {note}"))
    stranger("pealm-c", END.format("", "trainer", f"{note}\n    raise RuntimeError"))
    host = PluginHost.installed()
    trainer = SimpleNamespace(host=host, seen=[], step=3)
    with pytest.raises(PluginError, match="pealm_run_end failed at step 3"):
        host.call("pealm_run_end", trainer=trainer, status="done")
    assert trainer.seen == ["pealm-b/b", "pealm-a/a", "pealm-c/c", "pealm-b/b"]
    assert host.current is None


def test_those_that_failed_are_known_and_not_called_again(stranger: Callable[..., None]) -> None:
    stranger("pealm-a", END.format("", "", "raise RuntimeError('boom')") + EVAL_MODEL.format("return 1"))
    stranger("pealm-b", EVAL_MODEL.format("return 2"))
    stranger("pealm-c", EVAL_MODEL.format("return 3"))
    host = PluginHost.installed()
    with pytest.raises(PluginError):
        host.call("pealm_run_end", trainer=None, status="done")
    assert host.failed == {
        "pealm-a/a": "pealm-a/a: pealm_run_end failed: RuntimeError: boom (pealm_a_plugin.py, line 4, pealm_run_end)"
    }
    host.switch_off("pealm-c/c")  # as another rank says
    host.switch_off("pealm-c/c")
    assert host.call("pealm_eval_model", trainer=None) == [("pealm-b/b", 2)]
