"""How a text is cut into pieces before merging, by name: no token spans two pieces."""

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

_WORDS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "digits": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTION}|{_WORDS}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "o200k": (
        rf"{_WORDS}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_WORDS}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ),
}
# Characters of scripts without spaces that are learned from as one word.
CHUNK = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]{1,8}"


def pre_tokenizer(pattern: str, *, chunks: bool = False) -> PreTokenizer:
    """Return what cuts a text and writes its bytes as characters; "gpt2" is built in.

    chunks: also cut what has no spaces, to learn merges from it.
    """
    own = pattern == "gpt2"
    steps: list[PreTokenizer] = [Split(Regex(CHUNK), "isolated")] if chunks else []
    steps += [] if own else [Split(Regex(PATTERNS[pattern]), "isolated")]
    steps.append(ByteLevel(add_prefix_space=False, use_regex=own))
    return steps[0] if len(steps) == 1 else Sequence(steps)
