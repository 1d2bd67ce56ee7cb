"""The import guard: heavy imports are refused with the module that has them, and nothing else is affected."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pealm_core.contract.errors import PluginError
from pealm_core.contract.specs import ModelSpec
from pealm_core.plugins.loading import PluginHost

MODEL = """
from pealm_core import ModelSpec, hookimpl
@hookimpl
def pealm_models():
    yield ModelSpec(name="x", summary="A model", config="pealm_it_config:Config", factory="nowhere:Model")
"""
CONFIG = """
from dataclasses import dataclass
@dataclass
class Config:
    vocab_size: int
    block_size: int = 8
"""


def fresh(code: str) -> str:
    """Run code in a new process, in which torch isn't loaded, and return what it prints."""
    code = f"import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n{code}"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(sys.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


HOST = """
from pealm_core.contract.errors import PluginError
from pealm_core.contract.specs import ModelSpec
from pealm_core.plugins.loading import PluginHost
def reason(host):
    return next(plugin.reason for plugin in host.plugins if plugin.dist == "pealm-it")
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch.nn as nn", "pealm_it_plugin imports torch at its top, which"),
        ("from numpy import array", "pealm_it_plugin imports numpy at its top, which"),
        ("from pealm_core import LM", "pealm_it_plugin imports torch at its top, through pealm_core."),
        ("import pealm_it_light", "pealm_it_plugin imports numpy at its top, through pealm_it_light, which"),
        (
            "from pealm_core import hookimpl\n@hookimpl\ndef pealm_models():\n    import numpy\n    return []",
            "pealm_it_plugin imports numpy at its top, which",
        ),
    ],
)
def test_a_heavy_import_is_refused_with_its_module_by_every_host(
    stranger: Callable[..., None], tmp_path: Path, source: str, words: str
) -> None:
    stranger("pealm-it", source)
    (tmp_path / "site-pealm-it" / "pealm_it_light.py").write_text("import numpy")
    first, second, _ = fresh(HOST + "for _ in range(2): print(reason(PluginHost.installed()))").split("\n")
    assert words in first and first == second


def test_an_optional_import_of_a_dependency_works_as_usual(stranger: Callable[..., None], tmp_path: Path) -> None:
    stranger("pealm-it", "import pealm_it_light")
    light = "try:\n    import numpy\nexcept ImportError:\n    numpy = None"
    (tmp_path / "site-pealm-it" / "pealm_it_light.py").write_text(light)
    code = "PluginHost.installed()\nimport pealm_it_light\nprint(pealm_it_light.numpy)"
    assert "module 'numpy'" in fresh(HOST + code)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\n", "of model 'x' pealm_it_config imports torch at its top, which would"),
        ("from pealm_core import LM\n", "of model 'x' pealm_it_config imports torch at its top, through pealm_core."),
    ],
)
def test_a_heavy_import_in_a_config_is_the_plugins_defect(
    stranger: Callable[..., None], tmp_path: Path, source: str, words: str
) -> None:
    stranger("pealm-it", MODEL)
    (tmp_path / "site-pealm-it" / "pealm_it_config.py").write_text(source + CONFIG)
    code = (
        "try:\n    PluginHost.installed().find(ModelSpec, 'x').config\nexcept PluginError as error:\n    print(error)"
    )
    assert words in fresh(HOST + code)


def test_a_direct_import_is_noticed_where_torch_is_loaded_already(
    stranger: Callable[..., None], tmp_path: Path
) -> None:
    import torch  # noqa: F401

    stranger("pealm-broken", "import torch.nn as nn")
    stranger("pealm-it", MODEL)
    (tmp_path / "site-pealm-it" / "pealm_it_config.py").write_text("from torch import Tensor\n" + CONFIG)
    stranger.also("pealm_it_config")  # type: ignore[attr-defined]
    host = PluginHost.installed()
    broken = next(plugin for plugin in host.plugins if plugin.dist == "pealm-broken")
    assert "pealm_broken_plugin imports torch at its top" in broken.reason
    assert broken.load_ms > 0  # the time that it costs every command
    with pytest.raises(PluginError, match="pealm_it_config imports torch at its top"):
        _ = host.find(ModelSpec, "x").config


def test_the_core_itself_is_light() -> None:
    code = "import pealm_core, pealm_core.cli\ndir(pealm_core)\nprint({'torch', 'numpy'} & set(sys.modules))"
    assert fresh(code) == "set()\n"


def test_names_that_need_torch_are_imported_on_first_use() -> None:
    code = "from pealm_core import LM, TokenFile, score\nimport pealm_core.inference.lm as lm\nprint(LM is lm.LM)"
    assert fresh(code) == "True\n"
    assert fresh("import pealm_core\nprint(hasattr(pealm_core, 'no_such_name'))") == "False\n"


def test_datasets_and_tokenizers_need_no_torch() -> None:
    names = "TokenFile, TokenWriter, load_saved_tokenizer, load_tokenizer, make_datasets, make_tokenizer"
    assert fresh(f"import sys\nfrom pealm_core import {names}\nprint('torch' in sys.modules)") == "False\n"
