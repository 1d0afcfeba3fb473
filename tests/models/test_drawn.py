"""The tables of each model are drawn with the deviation that suits what they are for."""

from typing import Any

import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.embedding import Embedding

SIZES: dict[str, Any] = {"width": 16, "feedforward_width": 24, "num_heads": 4}
OWN, OUTPUT = 16**-0.5, 0.02  # as GPT-2 and BERT


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[int, float]]:
    """The words of each table that is made, and the deviation that it is drawn with."""
    found: list[tuple[int, float]] = []

    init = Embedding.__init__

    def noting(self: Embedding, vocab_size: int, width: int, *, deviation: float | None = None, **options: Any) -> None:
        found.append((vocab_size, width**-0.5 if deviation is None else deviation))
        init(self, vocab_size, width, deviation=deviation, **options)

    monkeypatch.setattr(Embedding, "__init__", noting)
    return found


@pytest.mark.parametrize(
    ("tied", "init", "expected"),
    [
        # Of the target, of the source, of the output, where they are tables of their own.
        ("all", "gpt2", [(30, OUTPUT)]),
        ("all", "fairseq", [(30, OWN)]),
        ("all", "t5", [(30, 1.0)]),
        ("target", "gpt2", [(30, OUTPUT), (20, OWN)]),
        ("target", "fairseq", [(30, OWN), (20, OWN)]),
        ("target", "t5", [(30, 1.0), (20, 1.0)]),
        ("inputs", "gpt2", [(30, OWN), (30, OUTPUT)]),
        ("inputs", "t5", [(30, 1.0), (30, OUTPUT)]),
        ("none", "gpt2", [(30, OWN), (20, OWN), (30, OUTPUT)]),
        ("none", "t5", [(30, 1.0), (20, 1.0), (30, OUTPUT)]),
    ],
)
def test_tables_of_two_sides(tied, init, expected, drawn) -> None:
    config = Seq2SeqConfig(
        source_vocab_size=30 if tied in ("all", "inputs") else 20, target_vocab_size=30, num_encoder_layers=1,
        num_decoder_layers=1, tied_embeddings=tied, embedding_init=init, **SIZES,
    )  # fmt: skip
    nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0)))
    assert drawn == expected


@pytest.mark.parametrize(("tied", "expected"), [(True, [(30, OUTPUT)]), (False, [(30, OWN), (30, OUTPUT)])])
def test_tables_of_a_decoder(tied, expected, drawn) -> None:
    config = DecoderConfig(vocab_size=30, num_layers=1, tied_embeddings=tied, **SIZES)
    nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    assert drawn == expected
