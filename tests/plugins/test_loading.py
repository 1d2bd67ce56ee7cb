"""The host: what loads, what is quarantined and why, and how names resolve."""

from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from pealm_core.cli.plugins import conflicts
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.specs import DatasetSpec, ModelSpec
from pealm_core.plugins.discovery import discover
from pealm_core.plugins.loading import OURS, PluginHost

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
        "failed: TypeError: pealm_models() missing 1 required positional argument: 'config'",
    ),
    "wrong lifecycle argument": (
        "from pealm_core import hookimpl\n@hookimpl\ndef pealm_step_end(stp):\n    pass",
        "{'stp'}",
    ),
    "wrapper of a registration hook": (
        good("x").replace("@hookimpl", "@hookimpl(wrapper=True)"),
        "failed: pealm_models: wrapper=True has no effect here",
    ),
    "order of a registration hook": (
        good("x").replace("@hookimpl", "@hookimpl(tryfirst=True)"),
        "failed: pealm_models: tryfirst=True has no effect here",
    ),
    "wrapper of the evaluation model": (
        "from pealm_core import hookimpl\n@hookimpl(wrapper=True)\ndef pealm_eval_model():\n    yield",
        "failed: pealm_eval_model: wrapper=True has no effect here",
    ),
    "wrapper without a yield": (
        "from pealm_core import hookimpl\n@hookimpl(wrapper=True)\ndef pealm_step_end():\n    pass",
        "function is not a generator function",
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
    "table of a preset": (
        good("x").replace("summary", "presets={'wide': {'sample': {'top_k': 3}}}, summary"),
        "failed: ModelSpec 'x': a recipe or preset has the tables adapter, input, objective, optimizer, schedule, strategy, train, not ['sample']",
    ),
    "raises": (
        "from pealm_core import hookimpl\n@hookimpl\ndef pealm_models():\n    raise RuntimeError('boom')",
        "boom",
    ),
    "exits": ("import sys\nsys.exit(4)", "failed: SystemExit: 4"),
    "exits at once": ("import os\nos._exit(0)", "failed: SystemExit: os._exit(0) was called"),
    "never stops": (
        good("x") + "\n    while True:\n        yield ModelSpec(name=f'x{len(names)}', summary='x', "
        "config='a:b', factory='a:b')\n        names.append(0)\nnames = []",
        "pealm_models: a plugin may give 10,000",
    ),
    "panics": ("class PanicException(BaseException): ...\nraise PanicException('index')", "PanicException: index"),
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
    host.call("pealm_step_end", trainer=None)  # nothing half registered is called


def test_a_plugin_for_another_core_version_is_not_loaded(stranger: Callable[..., None]) -> None:
    stranger("pealm-new", good("new"), requires="pealm-core>=99")
    host = PluginHost.installed()
    assert "failed: needs pealm-core >=99, and 0." in reason(host, "pealm-new")
    with pytest.raises(
        PluginError, match=r"unknown model 'new'; pealm-new 1\.0 is not loaded: needs pealm-core >=99"
    ):
        host.find(ModelSpec, "new")


@pytest.mark.parametrize("requires", ["pealm-core>=0.1,<0.2", "pealm_core (>=0.1)", "pealm-core", "Pealm.Core~=0.1"])
def test_a_plugin_that_allows_this_core_version_loads(stranger: Callable[..., None], requires: str) -> None:
    stranger("pealm-new", good("new"), requires=requires)
    assert PluginHost.installed().find(ModelSpec, "new").plugin.dist == "pealm-new"


def test_our_own_plugins_need_no_comparison_of_versions() -> None:
    plugins = discover()
    core = next(plugin.version for plugin in plugins if plugin.dist == "pealm-core")
    assert SpecifierSet(OURS).contains(core)
    assert {plugin.requires for plugin in plugins if plugin.dist == "pealm-text"} == {OURS}


def test_an_interrupt_at_import_ends_the_command(stranger: Callable[..., None]) -> None:
    stranger("pealm-broken", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PluginHost.installed()


METADATA = "Metadata-Version: 2.1\nName: pealm-odd\nVersion: 1.0\n"


@pytest.mark.parametrize(
    ("entry_points", "metadata", "words"),
    [
        (b"[pealm]\nodd", METADATA, "Empty module name"),
        (b"[pealm]\nodd = m\xff", METADATA, "No module named 'm"),
        (b"[pealm]\nodd = odd", None, "No module named 'odd'"),
        (b"[pealm]\nodd = odd", METADATA + "Requires-Dist: pealm-core>=one", "InvalidSpecifier"),
    ],
)
def test_a_distribution_with_broken_files_is_quarantined(
    entry_points: bytes, metadata: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "pealm_odd-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(entry_points)
    if metadata:
        (info / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(str(tmp_path))
    host = PluginHost.installed()
    assert words in reason(host, "pealm-odd")
    assert host.find(ModelSpec, "char-bigram")
    with pytest.raises(PluginError, match=r"unknown model 'odd'; pealm-odd 1\.0 is not loaded: "):
        host.find(ModelSpec, "odd")


def test_broken_files_of_other_kinds_of_distributions_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[console_scripts]\nother\xff")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "other" not in {plugin.dist for plugin in discover()}


def test_a_folder_on_the_path_that_cannot_be_read_is_ignored(
    stranger: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger("pealm-one", good("elephant"))
    monkeypatch.syspath_prepend("/" + "x" * 5000)  # "File name too long"
    assert "pealm-one" in {plugin.dist for plugin in discover()}


def test_what_a_plugin_prints_at_import_does_not_reach_stdout(
    stranger: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger("pealm-loud", "print('hello')")
    PluginHost.installed()
    out, err = capsys.readouterr()
    assert out == "" and "hello" in err


def test_an_unknown_name_names_the_plugins_that_failed_to_load(stranger: Callable[..., None]) -> None:
    stranger("pealm-zoo", good("zebra") + "\nimport no_such_module")
    host = PluginHost.installed()
    with pytest.raises(
        UserError, match=r"unknown model 'zebra'.*; pealm-zoo 1\.0 is not loaded: ModuleNotFoundError: "
    ):
        host.find(ModelSpec, "zebra")
    with pytest.raises(PluginError, match=r"unknown model 'zoo'; pealm-zoo 1\.0 is not loaded: ") as error:
        host.find(ModelSpec, "zoo")
    assert error.value.exit_code == 3


def test_two_plugins_with_one_name(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("twin"))
    stranger("pealm-two", good("twin"))
    host = PluginHost.installed()
    with pytest.raises(UserError) as error:
        host.find(ModelSpec, "twin")
    assert "provided by 2 plugins; say which: pealm-one/twin or pealm-two/twin" in str(error.value)
    assert host.find(ModelSpec, "pealm-two/twin").plugin.dist == "pealm-two"
    one = next(p for p in host.plugins if p.dist == "pealm-one")
    assert conflicts(one, host) == ["model 'twin' is also in pealm-two"]


def test_unknown_names(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("elephant"))
    host = PluginHost.installed()
    with pytest.raises(UserError, match="unknown model 'elefant'; did you mean 'elephant'"):
        host.find(ModelSpec, "elefant")
    with pytest.raises(UserError, match=r"unknown dataset 'ocean'.*is its plugin installed\?"):
        PluginHost([]).find(DatasetSpec, "ocean")


def test_plugins_can_be_switched_off(stranger: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    stranger("pealm-one", good("elephant"))
    stranger("pealm-two", good("twin"))
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "one, pealm-two")
    host = PluginHost.installed()
    assert [p.status for p in host.plugins if p.dist in ("pealm-one", "pealm-two")] == ["disabled", "disabled"]
    with pytest.raises(UserError, match=r"pealm-one 1\.0 is not loaded: switched off"):
        host.find(ModelSpec, "one")
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "one")
    assert PluginHost.installed().find(ModelSpec, "twin")


def test_discovery_is_sorted_and_keeps_two_distributions_with_one_entry_point(
    stranger: Callable[..., None],
) -> None:
    stranger("pealm-zz", good("one"), name="same")
    stranger("pealm-aa", good("two"), name="same")
    found = discover()
    assert [p.dist for p in found] == sorted(p.dist for p in found)
    assert [p.dist for p in found if p.name == "same"] == ["pealm-aa", "pealm-zz"]


def test_parts_that_are_not_there_are_the_plugins_defect(stranger: Callable[..., None]) -> None:
    stranger("pealm-one", good("elephant"))
    entry = PluginHost.installed().find(ModelSpec, "elephant")
    with pytest.raises(PluginError, match=r"pealm-one: config 'nowhere:Config' of model 'elephant' can't be loaded"):
        _ = entry.config


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(3)",
        "import os\nos._exit(0)",
        "class PanicException(BaseException): ...\nraise PanicException",
    ],
)
def test_a_part_whose_module_ends_the_process_is_the_plugins_defect(
    stranger: Callable[..., None], tmp_path: Path, source: str
) -> None:
    stranger("pealm-one", good("elephant", config="pealm_one_config:Config"))
    (tmp_path / "site-pealm-one" / "pealm_one_config.py").write_text(source)
    stranger.also("pealm_one_config")  # type: ignore[attr-defined]
    entry = PluginHost.installed().find(ModelSpec, "elephant")
    with pytest.raises(PluginError, match="pealm-one: config 'pealm_one_config:Config' of model 'elephant' can't be"):
        _ = entry.config


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("vocab_size: int", "needs the fields block_size"),
        ("name: str = 'x'", "has a field 'name', which is reserved"),
        ("x: 'Nope' = 1", "name 'Nope' is not defined"),
        ("x: complex = 1j", "has a field 'x' of type <class 'complex'>"),
    ],
)
def test_a_config_that_cannot_be_used_is_the_plugins_defect(
    stranger: Callable[..., None], tmp_path: Path, body: str, words: str
) -> None:
    stranger("pealm-one", good("elephant", config="pealm_one_config:Config"))
    source = f"from dataclasses import dataclass\n@dataclass\nclass Config:\n    {body}\n"
    (tmp_path / "site-pealm-one" / "pealm_one_config.py").write_text(source)
    stranger.also("pealm_one_config")  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=f"pealm-one: config of model 'elephant' {words}"):
        _ = PluginHost.installed().find(ModelSpec, "elephant").config


def test_a_plugin_that_loads_for_long_is_named(
    stranger: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pealm_core.plugins.loading.PATIENCE", 0.05)
    stranger("pealm-slow", "import time; time.sleep(0.5)")
    PluginHost.installed()
    assert "loading the plugin slow takes long; PEALM_DISABLE_PLUGINS=slow skips it" in capfd.readouterr().err
