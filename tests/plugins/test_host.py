"""The host: what loads, what is quarantined and why, and how names resolve."""

import sys
from collections.abc import Callable

import pytest

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.specs import DatasetSpec, ModelSpec
from pealm_core.plugins.host import PluginHost, discover, meets

GOOD = """
from pealm_core import ModelSpec, hookimpl
@hookimpl
def pealm_models():
    yield ModelSpec(name="{name}", summary="A model", config="{config}", factory="nowhere:Model")
"""


def good(name: str, config: str = "nowhere:Config") -> str:
    return GOOD.format(name=name, config=config)


def reason(host: PluginHost, dist: str) -> str:
    plugin = next(p for p in host.plugins if p.dist == dist)
    assert plugin.records == []
    return f"{plugin.status}: {plugin.reason}"


BROKEN = {
    "import error": ("import no_such_module", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
    "heavy import": ("import torch.nn as nn", "failed: imports torch at its top"),
    "heavy from-import": ("from numpy import array", "failed: imports numpy at its top"),
    "misspelt hook": (
        good("x").replace("pealm_models", "pealm_modles"),
        "failed: has a hook 'pealm_modles' that pealm does not know; did you mean 'pealm_models'?",
    ),
    "unmarked hook": (
        good("x").replace("@hookimpl\n", ""),
        "failed: has a function 'pealm_models' that is not marked",
    ),
    "wrong argument": (
        good("x").replace("models()", "models(config)"),
        "Argument(s) {'config'} are declared in the hookimpl",
    ),
    "wrong lifecycle argument": (
        "from pealm_core import hookimpl\n@hookimpl\ndef pealm_step_end(stp):\n    pass",
        "{'stp'}",
    ),
    "wrong record": (
        good("x").replace("yield ModelSpec", "return ModelSpec").replace("pealm_models", "pealm_datasets"),
        "failed: pealm_datasets must give DatasetSpec records, not ModelSpec",
    ),
    "missing field": (
        "from pealm_core import ModelSpec, hookimpl\n@hookimpl\ndef pealm_models():\n    yield ModelSpec(name='x')",
        "missing",
    ),
    "bad name": (good("My Model"), "failed: ModelSpec 'My Model': a name is made of"),
    "bad part": (good("x", config="nowhere.Config"), "config must be a string 'module:attribute'"),
    "raises": (
        "from pealm_core import hookimpl\n@hookimpl\ndef pealm_models():\n    raise RuntimeError('boom')",
        "boom",
    ),
    "half good": (
        good("x") + "\n    yield ModelSpec(name='x', summary='again', config='a:b', factory='a:b')",
        "failed: pealm_models gives two records named 'x'",
    ),
    "core command": (
        "from pealm_core import CommandSpec, hookimpl\n@hookimpl\ndef pealm_commands():\n"
        "    return CommandSpec(name='train', summary='Mine', command='a:b')",
        "a command of that name, which a plugin can't replace",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_quarantined_whole_with_its_reason(case: str, stranger: Callable[..., None]) -> None:
    source, words = BROKEN[case]
    stranger("pealm-broken", source)
    stranger("pealm-fine", good("fine"))
    host = PluginHost.installed()
    assert words in reason(host, "pealm-broken")
    assert host.find(ModelSpec, "fine").plugin.dist == "pealm-fine"
    host.notify("pealm_step_end", run=None, step=1, metrics={})  # nothing half registered is called


def test_the_guard_refuses_torch_although_it_is_loaded(stranger: Callable[..., None]) -> None:
    import torch  # noqa: F401

    stranger("pealm-broken", "import torch")
    assert "imports torch at its top" in reason(PluginHost.installed(), "pealm-broken")
    assert "torch" in sys.modules


def test_an_unmet_core_version_makes_a_plugin_incompatible(stranger: Callable[..., None]) -> None:
    stranger("pealm-new", good("new"), requires="pealm-core>=99")
    host = PluginHost.installed()
    assert "incompatible: needs pealm-core >=99, and 0." in reason(host, "pealm-new")
    with pytest.raises(PluginError, match=r"model 'new' comes from pealm-new 1\.0, .*needs pealm-core >=99"):
        host.find(ModelSpec, "new")


@pytest.mark.parametrize(
    "specifier",
    ["", ">=0.1", ">=0.1,<0.2", "<0.2,>=0.1", ">=0.1.5", "<0.1", "<0.1.1", ">=1", "~=0.1", "==0.1.*", "!=0.1.3"],
)
@pytest.mark.parametrize("version", ["0.1", "0.1.0", "0.1.3", "0.2.0", "1.0", "0.1.dev3", "0.2rc1"])
def test_the_quick_comparison_of_versions_agrees_with_packaging(version: str, specifier: str) -> None:
    from packaging.specifiers import SpecifierSet

    assert meets(version, specifier) == SpecifierSet(specifier).contains(version, prereleases=True)


def test_a_broken_plugin_is_named_also_where_only_its_source_tells(stranger: Callable[..., None]) -> None:
    stranger("pealm-zoo", good("zebra") + "\nimport no_such_module")
    with pytest.raises(PluginError, match=r"model 'zebra' comes from pealm-zoo 1\.0, which failed to load") as error:
        PluginHost.installed().find(ModelSpec, "zebra")
    assert error.value.exit_code == 3


def test_two_plugins_with_one_name(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("twin"))
    stranger("pealm-two", good("twin"))
    host = PluginHost.installed()
    with pytest.raises(UserError) as error:
        host.find(ModelSpec, "twin")
    assert "provided by both pealm-one and pealm-two; say which: pealm-one/twin or pealm-two/twin" in str(error.value)
    assert host.find(ModelSpec, "pealm-two/twin").plugin.dist == "pealm-two"
    one = next(p for p in host.plugins if p.dist == "pealm-one")
    assert host.conflicts(one) == ["model 'twin' is also in pealm-two"]


def test_unknown_names(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("elephant"))
    host = PluginHost.installed()
    with pytest.raises(UserError, match="unknown model 'elefant'; did you mean 'elephant'"):
        host.find(ModelSpec, "elefant")
    empty = PluginHost([])
    with pytest.raises(UserError, match="dataset 'tinyshakespeare' is not installed; try: pip install pealm-tiny"):
        empty.find(DatasetSpec, "tinyshakespeare")
    with pytest.raises(UserError, match=r"did you mean 'char-bigram' \(pip install pealm-char-bigram\)"):
        empty.find(ModelSpec, "char-bigrm")


def test_plugins_can_be_switched_off(stranger: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    stranger("pealm-one", good("elephant"))
    stranger("pealm-two", good("twin"))
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "one, pealm-two")
    host = PluginHost.installed()
    assert [p.status for p in host.plugins if p.dist in ("pealm-one", "pealm-two")] == ["disabled", "disabled"]
    with pytest.raises(UserError, match="comes from pealm-one, which is switched off"):
        host.find(ModelSpec, "elephant")
    monkeypatch.delenv("PEALM_DISABLE_PLUGINS")
    assert PluginHost.installed(disabled=["one"]).find(ModelSpec, "twin")


def test_discovery_is_sorted_and_keeps_two_distributions_with_one_entry_point(
    stranger: Callable[..., None],
) -> None:
    stranger("pealm-zz", good("one"), name="same")
    stranger("pealm-aa", good("two"), name="same")
    found = discover()
    assert [p.dist for p in found] == sorted(p.dist for p in found)
    assert [p.dist for p in found if p.name == "same"] == ["pealm-aa", "pealm-zz"]


def test_lifecycle_hooks_run_in_order_and_an_error_names_plugin_hook_and_step(
    stranger: Callable[..., None],
) -> None:
    source = "from pealm_core import hookimpl\n@hookimpl\ndef pealm_step_end({}):\n    {}\n"
    stranger("pealm-b", source.format("metrics", "metrics['seen'].append('b')"))
    stranger("pealm-a", source.format("step, metrics", "metrics['seen'].append('a')"))
    seen: list[str] = []
    PluginHost.installed().notify("pealm_step_end", run=None, step=1, metrics={"seen": seen})
    assert seen == ["a", "b"]
    stranger("pealm-c", source.format("", "raise KeyError('lost')"))
    with pytest.raises(PluginError, match=r"pealm-c/c: pealm_step_end failed at step 7: KeyError: 'lost'"):
        PluginHost.installed().notify("pealm_step_end", run=None, step=7, metrics={"seen": []})


def test_parts_that_are_not_there_are_the_plugins_defect(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("elephant"))
    entry = PluginHost.installed().find(ModelSpec, "elephant")
    with pytest.raises(PluginError, match=r"pealm-one: config 'nowhere:Config' of model 'elephant' can't be loaded"):
        _ = entry.config
