"""What can go wrong, and which exit code says so.

PealmError                1  the work failed
├── ElsewhereError            another process of the run failed, and says why itself
├── UserError             2  the user's mistake: the message says what, where and the fix
│   └── InvalidCheckpointError  a folder that is no whole checkpoint
└── PluginError           3  a plugin's defect: the message names the plugin and the reason
"""


class PealmError(Exception):
    """The work failed for a reason that one line can tell."""

    exit_code = 1


class UserError(PealmError):
    """Something the user gave can't be used; nothing was lost or half-written."""

    exit_code = 2


class InvalidCheckpointError(UserError):
    """A folder that is no whole checkpoint; the message names the file and what is wrong with it."""


class ElsewhereError(PealmError):
    """Another process of the run failed and says why; this one only ends, without a word."""


class PluginError(PealmError):
    """An installed plugin does not keep the contract."""

    exit_code = 3
