"""The pytest plugin: the option --pealm-slow. Every pytest run imports it, so it imports nothing heavy."""

import pytest

from pealm_testing import _MODULES

# Not the package itself, which is imported already.
pytest.register_assert_rewrite(*sorted({f"pealm_testing.{module}" for module in _MODULES.values()}))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --pealm-slow."""
    parser.getgroup("pealm").addoption(
        "--pealm-slow",
        action="store_true",
        help="also run the conformance checks that take ten seconds each (torch.compile, two processes)",
    )
