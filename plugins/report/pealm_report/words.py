"""Numbers as people read them."""

import math


def short(value: float) -> str:
    """Three digits and a letter.

    >>> short(4_300), short(124_439_808), short(512), short(1e10)
    ('4.3k', '124M', '512', '10B')
    """
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def printable(text: str) -> str:
    """A text that takes one line and can't control a terminal.

    >>> printable("a\\x1b[2J\\nb")
    'a�[2J�b'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: int) -> str:
    """Bytes.

    >>> size(999), size(16_400_000)
    ('999 B', '16.4 MB')
    """
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """
    >>> duration(8.2), duration(75), duration(3 * 3600 + 120), duration(200_000)
    ('8.2 s', '1 min 15 s', '3 h 02 min', '55 h 33 min')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
