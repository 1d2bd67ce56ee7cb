"""The errors of pealm, and the exit code of each.

PealmError                1  the work failed
├── ElsewhereError            another process of the run failed and prints the reason
├── UserError             2  the user's mistake: the message says what, where and the fix
│   └── InvalidCheckpointError  a folder that is not a complete checkpoint
└── PluginError           3  a plugin's defect: the message names the plugin and the reason
"""


class PealmError(Exception):
    """The work failed for a reason that fits one line."""

    exit_code = 1

    def __str__(self) -> str:
        return super().__str__() or type(self).__name__  # never empty: between ranks, an empty text means no error


class UserError(PealmError):
    """The user's input can't be used; nothing was lost or left incomplete."""

    exit_code = 2


class InvalidCheckpointError(UserError):
    """A folder that is not a complete checkpoint; the message names the file and what is wrong with it."""


class ElsewhereError(PealmError):
    """Another process of the run failed and prints the reason; this one ends without a message."""


class PluginError(PealmError):
    """An installed plugin breaks the contract."""

    exit_code = 3
