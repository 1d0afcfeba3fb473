"""A SentencePiece model put together from its pieces: what that library reads, without what made it.

It is a message of protocol buffers, whose fields are a number and a kind, then a number, four bytes, or counted bytes.
Source: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Sequence

# Kinds of pieces.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
_VARINT, _BYTES, _FOUR = 0, 2, 5
_PAIRS = 2  # the model that merges pairs


def piece_model(
    pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, bos: str, eos: str, pad: str
) -> bytes:
    """Returns a model that merges pairs of pieces, the best score first.

    Args:
        kinds: of the pieces, by their numbers there. Where all 256 bytes are among them, they spell what has no piece.
        bos, eos, pad: control pieces that begin and end a text and fill a row; they may be the same.
    """
    spells = list(kinds).count(BYTE) == 256  # with fewer, the library takes none
    kinds = [NORMAL if kind == BYTE and not spells else kind for kind in kinds]
    listed = b"".join(
        _field(1, _field(1, piece.encode()) + _float(2, score) + _number(3, kind))
        for piece, score, kind in zip(pieces, scores, kinds, strict=True)
    )
    trainer = _number(3, _PAIRS) + _number(4, len(pieces)) + _number(35, spells)
    for number, piece in ((45, pieces[kinds.index(UNKNOWN)]), (46, bos), (47, eos), (48, pad)):
        trainer += _field(number, piece.encode())
    # A space before the text, none taken away, and U+2581 in the place of each.
    normalizer = _field(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return listed + _field(2, trainer) + _field(3, normalizer)


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | _FOUR) + struct.pack("<f", value)
