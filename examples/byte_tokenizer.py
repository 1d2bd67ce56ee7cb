"""A tokenizer: the bytes of UTF-8, and an end-of-text token. Any text can be expressed.

    pealm --plugin examples/byte_tokenizer.py train char-transformer --tokenizer bytes \
        --input.tinyshakespeare --steps 500 --out runs/bytes
    pealm --plugin examples/byte_tokenizer.py sample --ckpt runs/bytes --prompt "Où " -n 200
"""

from pealm_core import TokenizerSpec, hookimpl


class Bytes:
    vocab_size = 257
    eot_id = 256  # put before every document, and ends a generated text
    by_character = True  # a text cut anywhere gives the same ids, so that long texts can be encoded in pieces

    def encode(self, text):
        return list(text.encode())  # a ValueError (UnicodeEncodeError) is reported as the user's

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")


@hookimpl
def pealm_tokenizers():
    yield TokenizerSpec(name="bytes", summary="UTF-8 bytes", factory=Bytes)
