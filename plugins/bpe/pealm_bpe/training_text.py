"""What the merges are learned from: texts in pieces of bounded size, and a bounded amount of scripts without spaces.

Learning costs memory and time for each distinct piece between spaces. In English, there are few; in Chinese, almost
every clause is one. Two measures keep the cost the same: a run of such a script is cut into chunks (`patterns.CHUNK`)
while merges are learned, and beyond some number of characters, only a sample of the texts in it is used.
"""

import re
import zlib
from collections.abc import Iterable, Iterator

PIECE, NEARBY = 16_384, 2_048  # characters of a piece, and in which a place to cut is looked for
# No pattern has a piece across these places.
CUTS = (re.compile(r"(?<=\S\n)(?=[^\W_])"), re.compile(r"(?<=[^\W_])(?= [^\W_])"))
# Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters
SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces, cut where no token can span.

    >>> list(pieces("a rose"))
    ['a rose']
    """
    start = 0
    while len(text) - start > PIECE + NEARBY:
        area = start + PIECE, start + PIECE + NEARBY
        found = (pattern.search(text, *area) for pattern in CUTS)
        stop = next((match.start() for match in found if match), area[1])
        yield text[start:stop]
        start = stop
    yield text[start:]


def bounded(texts: Iterable[str], most: int) -> Iterator[str]:
    """Yield texts in pieces; of those in scripts without spaces, about twice `most` characters at most.

    Beyond `most`, a piece is kept with the probability (most / characters so far)**2, decided by a hash of it.
    """
    seen = 0
    for text in texts:
        for piece in pieces(text):
            if not piece.isascii():
                count = len(piece) - len(SPACELESS.sub("", piece))
                if count > len(piece) // 4:
                    seen += count
                    if zlib.crc32(piece.encode()) * seen**2 > 2**32 * most**2:
                        continue
            yield piece
