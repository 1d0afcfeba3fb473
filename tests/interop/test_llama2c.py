"""Models of llama2.c: read as ours, against that program's own arithmetic; their vocabularies; what is damaged."""

import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.errors import InputError
from lmx.generator import Generator
from lmx.interop.convert import convert
from lmx.interop.imported import definition_of
from lmx.interop.llama2c import read_llama2c, read_tokenizer
from lmx.interop.piece_model import CONTROL, NORMAL, UNKNOWN, piece_model
from lmx.text import SentencePieceTokenizer
from tests.test_stories import WORDS, logits_of, write

PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", b"a", b"b", b"ab", b" ab"]


def write_pieces(path: Path, number: int) -> Path:
    """Writes a vocabulary: some pieces that merge, all bytes if there is room, and words without use up to a number."""
    spelled = [f"<0x{byte:02X}>".encode() for byte in range(256)] if number > 256 else []
    pieces = [*PIECES, *spelled]
    pieces += [f"x{index}".encode() for index in range(number - len(pieces))]
    scores = [0.0] * 6 + [-1.0, -2.0] + [0.0] * (number - 8)
    records = [struct.pack("<fi", score, len(piece)) + piece for piece, score in zip(pieces, scores, strict=True)]
    path.write_bytes(struct.pack("<i", 9) + b"".join(records))
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_the_logits_of_that_program(tmp_path, tied):
    arrays = write(tmp_path / "model.bin", tied=tied)
    read = read_llama2c(tmp_path / "model.bin", write_pieces(tmp_path / "tok.bin", WORDS))
    definition = definition_of(read.model)
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(read.file.get_tensor(".".join(str(entry.key) for entry in path))), definition.shapes
    )
    tokens = np.array([1, 7, 3, 39, 7, 20], np.int32)
    run = nnx.jit(lambda model, tokens: model.logits(model(tokens)[0]))
    found = np.asarray(run(definition.merge(params), tokens[None]))[0, :, :WORDS]
    np.testing.assert_allclose(found, logits_of(arrays, tokens), atol=1e-4)
    assert (read.model.tied_embeddings, read.facts) == (tied, {"first_id": 1})
    assert (read.family, read.model.norm_epsilon, read.model.pad_id) == ("decoder", 1e-5, 2)
    assert read.settings == {"max_length": read.model.max_length, "sampling": {"temperature": 0.0}}
    query = "stack.blocks.attention.query.weight"
    np.testing.assert_array_equal(read.file.get_slice(query)[1:, 3:9, 2:], read.file.get_tensor(query)[1:, 3:9, 2:])


def test_a_converted_model_writes_what_the_program_does(tmp_path):
    arrays = write(tmp_path / "model.bin", tied=True)
    convert(tmp_path / "model.bin", tmp_path / "run", pieces=write_pieces(tmp_path / "tok.bin", WORDS))
    tokens = [1]
    for _ in range(6):
        tokens.append(int(logits_of(arrays, np.array(tokens))[-1].argmax()))
    (found,) = Generator.load(tmp_path / "run").generate("", temperature=0.0, max_tokens=6)
    expected = tokens[1:]
    assert list(found.tokens) == expected[: expected.index(1) + 1 if 1 in expected else None]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["first_id"] == 1


def test_pieces_merge_by_their_scores_and_what_is_missing_is_spelled_in_bytes(tmp_path):
    tokenizer = read_tokenizer(write_pieces(tmp_path / "tok.bin", 264), 264)
    assert tokenizer.encode("abab") == [7, 6]
    assert tokenizer.decode(tokenizer.encode("ab  üa")) == "ab  üa"
    assert tokenizer.encode("a\n")[-1] == len(PIECES) + 10
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 1, 2, 0)
    with pytest.raises(InputError, match=r"tok\.bin must have 265 pieces, got 264\.$"):
        read_tokenizer(tmp_path / "tok.bin", 265)
    content = (tmp_path / "tok.bin").read_bytes().replace(b"x", b"\xff") + struct.pack("<fi", 0.0, 1) + b"\xff"
    (tmp_path / "odd.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.bin must have pieces in UTF-8, got b'"):
        read_tokenizer(tmp_path / "odd.bin", 265)
    with pytest.raises(FileNotFoundError, match=r"no\.bin must hold the pieces of the model's vocabulary"):
        read_tokenizer(tmp_path / "no.bin", 12)


def test_a_piece_model_is_one_of_sentencepiece():
    model = piece_model(
        ["<unk>", "<s>", "</s>", "\u2581", "c"], [0.0] * 5, [UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL],
        bos="<s>", eos="</s>", pad="</s>",
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (5, 1, 2, 2)
    assert tokenizer.encode("c cc") == [3, 4, 3, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4], r"model\.bin must have 29,884 bytes, as its header says, got 29,880\.$"),
        (lambda data: data + b"\0\0", r"model\.bin must have 29,884 bytes, as its header says, got 29,886\.$"),
        (lambda data: data[:9], r"model\.bin must begin with seven sizes of a model, got \(24, 20, 2, 0, 0, 0, 0\)\.$"),
        (lambda data: struct.pack("<i", 20) + data[4:], r"must begin with seven sizes of a model, got \(20, "),
        (lambda data: data[:16] + struct.pack("<i", 4) + data[20:], r"must begin with seven sizes of a model, got"),
        (lambda data: data[:20] + struct.pack("<i", 0) + data[24:], r"must begin with seven sizes of a model, got"),
        (
            lambda data: data[:8] + struct.pack("<i", 2**31 - 1) + data[12:],
            r"must have [\d,]{15,} bytes, as its header",
        ),
        (lambda data: b"", r"model\.bin must begin with seven sizes of a model, got \(0, 0"),
    ],
    ids=["cut", "longer", "cut header", "heads", "key heads", "no words", "many layers", "empty"],
)
def test_a_file_that_is_cut_or_longer_is_an_error(tmp_path, change, message):
    path = tmp_path / "model.bin"
    write(path, tied=True)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        read_llama2c(path, write_pieces(tmp_path / "tok.bin", WORDS))
