"""What the families of language models share: their names, their vocabularies, and what predicts which labels."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.errors import InputError
from lmx.models import decoder, masked, seq2seq
from lmx.models.language import family_of, fit_vocabulary, predict, training_flops, vocabulary_fields
from lmx.nn.flops import of_stack

ONE = decoder.DecoderConfig(vocab_size=0, max_length=8)
MASKED = masked.MaskedConfig(vocab_size=0, max_length=8)
TWO = seq2seq.Seq2SeqConfig(source_vocab_size=0, target_vocab_size=0, max_length=8)


def test_a_family_has_its_name_and_its_vocabularies():
    assert [family_of(model) for model in (ONE, MASKED, TWO)] == ["decoder", "masked", "seq2seq"]
    assert [vocabulary_fields(model) for model in (ONE, MASKED)] == [("vocab_size",)] * 2
    assert vocabulary_fields(TWO) == ("source_vocab_size", "target_vocab_size")


@pytest.mark.parametrize(("length", "longest"), [(5, 8), (13, 13)])
def test_a_config_is_fitted_to_a_vocabulary_and_to_the_rows(length, longest):
    for model in (ONE, replace(ONE, vocab_size=30)):
        assert fit_vocabulary(model, vocab_size=30, length=length, pad_id=2) == replace(
            ONE, vocab_size=30, max_length=longest, pad_id=2
        )
    sizes = {"source_vocab_size": 30, "target_vocab_size": 30}
    assert fit_vocabulary(TWO, vocab_size=30, length=length) == replace(TWO, max_length=longest, pad_id=0, **sizes)


def test_another_vocabulary_than_the_tokenizers_is_refused():
    said = (
        r"^model\.vocab_size must be the 1,234 of tokenizer and objective, or 0 to take them, got vocab_size=4,321\.$"
    )
    with pytest.raises(InputError, match=said):
        fit_vocabulary(replace(ONE, vocab_size=4321), vocab_size=1234, length=5)
    with pytest.raises(InputError, match=r"^model\.target_vocab_size must be the 30 of .* got target_vocab_size=31\.$"):
        fit_vocabulary(replace(TWO, target_vocab_size=31, tied_embeddings="none"), vocab_size=30, length=5)


def test_each_family_counts_its_own_flops():
    one, other = (replace(each, vocab_size=50) for each in (ONE, MASKED))
    two = replace(TWO, source_vocab_size=50, target_vocab_size=50)
    assert training_flops(one, rows=3, lengths=(9, 7)) == decoder.training_flops(one, rows=3, length=9)
    assert training_flops(other, rows=3, lengths=(9, 7)) == masked.training_flops(other, rows=3, length=9)
    assert training_flops(two, rows=3, lengths=(9, 7)) == seq2seq.training_flops(two, rows=3, source=9, target=7)
    sides = replace(two, num_encoder_layers=1, num_decoder_layers=4)
    encoder = of_stack(sides, layers=1, length=9)
    decoded = of_stack(sides, layers=4, length=7, is_causal=True, memory=9)
    assert training_flops(sides, rows=3, lengths=(9, 7)) == (encoder + decoded + 7 * 512 * 50).of_training(3)


class Noting:
    """Stands for a network: keeps what it is called with, and says which call it was."""

    config = SimpleNamespace(pad_id=1)

    def __init__(self) -> None:
        self.given: list[tuple[tuple, dict[str, Any]]] = []

    def __call__(self, *arrays: Any, **named: Any) -> tuple[jax.Array, dict]:
        self.given.append((arrays, named))
        return jnp.full((1, 3, 2), float(len(self.given))), {}

    encode = decode = __call__


def ids(*values: int) -> jax.Array:
    return jnp.asarray([values])


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("more", [{}, {"prefix": jnp.ones((1, 3), bool)}])
def test_words_are_predicted_where_they_have_a_label(more, is_packed):
    batch = {"tokens": ids(5, 6, 7), "labels": ids(0, -1, 4), "segments": ids(1, 1, 2), "positions": ids(0, 1, 0)}
    network = Noting()
    states, labels, counts = predict(network, batch | more, key=None, is_packed=is_packed)
    packing = {name: batch[name] for name in ("segments", "positions")} if is_packed else {}
    assert network.given == [((batch["tokens"],), packing | more | {"key": None})]
    assert np.asarray(states).tolist() == [[[1.0, 1.0]] * 3]
    assert labels.tolist() == [[0, 0, 4]]
    assert counts.tolist() == [[True, False, True]]


@pytest.mark.parametrize("is_packed", [False, True])
def test_targets_are_predicted_behind_their_sources_but_for_padding(is_packed):
    names = ("source", "source_segments", "source_positions", "decoder_input", "target_segments", "target_positions")
    batch = {name: ids(place, 5, 6) for place, name in enumerate(names)} | {"target": ids(4, 0, 1)}
    network, key = Noting(), jax.random.key(3)
    states, labels, counts = predict(network, batch, key=key, is_packed=is_packed)
    (encoded, of_source), ((memory, *decoded), of_target) = network.given
    keys = [given.pop("key") for given in (of_source, of_target)]
    np.testing.assert_array_equal(jax.random.key_data(jnp.stack(keys)), jax.random.key_data(jax.random.split(key)))
    assert (encoded, decoded) == ((batch["source"],), [batch["source"], batch["decoder_input"]])
    assert (float(memory[0, 0, 0]), float(states[0, 0, 0])) == (1.0, 2.0)
    if is_packed:
        assert of_source == {"segments": batch["source_segments"], "positions": batch["source_positions"]}
        assert of_target == {
            "source_segments": batch["source_segments"],
            "segments": batch["target_segments"],
            "positions": batch["target_positions"],
        }
    else:
        assert of_source == of_target == {}
    assert labels.tolist() == [[4, 0, 1]]
    assert counts.tolist() == [[True, True, False]]
