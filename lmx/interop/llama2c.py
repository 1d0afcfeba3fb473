"""The files of llama2.c: a model of Llama's form (version 0) and, beside it, the pieces of its vocabulary.

The model begins with seven int32: width, feed-forward width, layers, heads, key heads, words (negative where the output
has a table of its own), longest row. Then float32: the matrices of a kind for all layers, each [out, in]. Heads turn
neighbouring features together. The vocabulary begins with an int32, the length of the longest piece; each piece has a
float32, its score, an int32, its length, and its bytes. Source: https://github.com/karpathy/llama2.c.
"""

import math
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.errors import InputError
from lmx.interop.families import llama
from lmx.interop.imported import Imported, check_tokenizers, mapped
from lmx.interop.piece_model import BYTE, CONTROL, NORMAL, UNKNOWN, piece_model
from lmx.interop.rearranged import Reordered, halves
from lmx.interop.tensors import Index
from lmx.text import SentencePieceTokenizer

HEADER = 28
EPSILON = 1e-5
SPACE = "\u2581"
# The first three pieces; a text begins with the second, and the next text's beginning ends it.
SPECIAL = ("<unk>", "<s>", "</s>")
BOS = 1
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class Sizes(NamedTuple):
    """What a file begins with."""

    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    words: int
    length: int

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of what follows, under Hugging Face's names, where "{}" stands for each layer."""
        width, keys = self.width, self.kv_heads * (self.width // self.heads)
        layer = "model.layers.{}."
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (abs(self.words), width),
            f"{layer}input_layernorm.weight": (width,),
            f"{layer}self_attn.q_proj.weight": (width, width),
            f"{layer}self_attn.k_proj.weight": (keys, width),
            f"{layer}self_attn.v_proj.weight": (keys, width),
            f"{layer}self_attn.o_proj.weight": (width, width),
            f"{layer}post_attention_layernorm.weight": (width,),
            f"{layer}mlp.gate_proj.weight": (self.hidden, width),
            f"{layer}mlp.down_proj.weight": (width, self.hidden),
            f"{layer}mlp.up_proj.weight": (self.hidden, width),
            "model.norm.weight": (width,),
            ROTATIONS: (2, self.length, self.width // self.heads // 2),
        }
        return shapes | ({"lm_head.weight": (abs(self.words), width)} if self.words < 0 else {})


ROTATIONS = "sines and cosines, which are computed here"


class Llama2cSource:
    """The arrays of a file under Hugging Face's names.

    Raises:
        InputError: the file has another length than its sizes say.
    """

    def __init__(self, path: Path, sizes: Sizes):
        self.where, self.shapes, self._path = str(path), {}, path
        self._offsets: dict[str, int] = {}
        numbers = {name: sizes.layers if "{}" in name else 1 for name in sizes.parts()}
        end = HEADER + sum(4 * math.prod(shape) * numbers[name] for name, shape in sizes.parts().items())
        if (size := path.stat().st_size) != end:
            raise InputError(f"{path} must have {end:,} bytes, as its header says, got {size:,}.")
        offset = HEADER
        for name, shape in sizes.parts().items():
            for layer in range(numbers[name]):
                if name != ROTATIONS:
                    self.shapes[name.format(layer)] = shape
                    self._offsets[name.format(layer)] = offset
                offset += 4 * math.prod(shape)

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array."""
        mapped = np.memmap(self._path, "<f4", mode="r", offset=self._offsets[name], shape=self.shapes[name])
        return np.array(mapped[index], np.float32)


def read_llama2c(path: Path, pieces: Path) -> Imported:
    """Reads the header of a model and its vocabulary.

    Args:
        pieces: file of the vocabulary.

    Raises:
        FileNotFoundError: a file is not there.
        InputError: a file is damaged, or they are of two models.
    """
    sizes = read_sizes(path)
    source = Llama2cSource(path, sizes)
    theirs: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": abs(sizes.words),
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": EPSILON,
        "max_position_embeddings": sizes.length,
        "tie_word_embeddings": sizes.words > 0,
    }
    tokenizer = read_tokenizer(pieces, abs(sizes.words))
    model = replace(llama.config_of(theirs), pad_id=tokenizer.pad_id)
    orders = {
        name: halves(sizes.heads if ".q_proj." in name else sizes.kv_heads, model.width_of_head)
        for name in source.shapes
        if ".q_proj." in name or ".k_proj." in name
    }
    check_tokenizers(model, {"tokenizer": tokenizer}, where=str(path))
    return Imported(
        family="decoder",
        model=model,
        file=mapped(Reordered(source, orders), llama.table(model, "llama"), model),
        tokenizers={"tokenizer": tokenizer},
        settings={"max_length": sizes.length, "sampling": {"temperature": 0.0}},
        facts={"first_id": tokenizer.bos_id},
    )


def read_sizes(path: Path) -> Sizes:
    """Returns what a file begins with.

    Raises:
        FileNotFoundError: there is none.
        InputError: the numbers cannot be sizes of a model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a model of llama2.c, got no file.")
    with path.open("rb") as file:
        header = struct.unpack("<7i", file.read(HEADER).ljust(HEADER, b"\0"))
    sizes = Sizes(*header)
    others = (*header[:5], header[6])
    if min(others) <= 0 or not sizes.words or sizes.width % (2 * sizes.heads) or sizes.heads % sizes.kv_heads:
        raise InputError(f"{path} must begin with seven sizes of a model, got {header}.")
    return sizes


def read_tokenizer(path: Path, number: int) -> SentencePieceTokenizer:
    """Returns the vocabulary of a file; a text ends where another would begin, and rows are filled with what ends none.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it ends before the last piece, or the pieces are not text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must hold the pieces of the model's vocabulary, got no file.")
    data, start, pieces, scores = path.read_bytes(), 4, [], []
    while len(pieces) < number:
        score, size = struct.unpack_from("<fi", data, start) if start + 8 <= len(data) else (0.0, -1)
        piece = data[start + 8 : start + 8 + size] if size >= 0 else b""
        if len(piece) != size:
            raise InputError(f"{path} must have {number:,} pieces, got {len(pieces):,}.")
        try:
            pieces.append(piece.decode("utf-8").replace(" ", SPACE))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} must have pieces in UTF-8, got {piece!r}.") from error
        scores.append(score)
        start += 8 + size
    pieces[: len(SPECIAL)] = SPECIAL
    kinds = [UNKNOWN, CONTROL, CONTROL]
    kinds += [BYTE if BYTE_PIECE.fullmatch(piece) else NORMAL for piece in pieces[len(kinds) :]]
    model = piece_model(pieces, scores, kinds, bos=SPECIAL[1], eos=SPECIAL[1], pad=SPECIAL[2])
    try:
        return SentencePieceTokenizer(model)
    except ValueError as error:
        raise InputError(f"{path} must hold the pieces of a vocabulary, got some that are none.") from error
