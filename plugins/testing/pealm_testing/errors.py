"""The kit's error."""


class ConformanceError(AssertionError):
    """A check failed: what is wrong with the plugin, and how to fix it.

    It is raised explicitly, because `assert` statements do nothing under `python -O`.
    """
