"""Checks for the settings of an observer."""

from pealm_core import ObserverSpec
from pealm_testing.base import Conformance


class ObserverConformance(Conformance):
    """Settings of a plugin's hooks of a run. The hooks themselves are best tested by a run, as `new-plugin` shows."""

    kind = ObserverSpec
