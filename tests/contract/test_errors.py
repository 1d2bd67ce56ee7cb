"""The errors of pealm always have a text."""

import pytest

from pealm_core.contract.errors import PealmError, PluginError, UserError


@pytest.mark.parametrize("kind", [PealmError, UserError, PluginError])
@pytest.mark.parametrize("args", [(), ("",)])
def test_an_error_without_a_text_shows_its_name(kind: type[PealmError], args: tuple[str, ...]) -> None:
    assert str(kind(*args)) == kind.__name__
    assert str(kind("no such file")) == "no such file"
