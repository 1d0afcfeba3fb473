"""The searches against `generate` of Hugging Face: one random Marian in both, its few tensors mapped here.

Marian starts from its padding; started from its end token, it is searched as BART is.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.constraints import Rules
from lmx.decoding import SpecialIds, beam_search, greedy_search, power_penalty
from lmx.definition import define
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EOS, V, WIDTH, HEADS, LAYERS, W, LONGEST = 0, 29, 16, 2, 2, 4, 11  # Marian's end is its first id, its padding the last
PAD = V - 1
ENDS = 1.5  # what the end's logit is raised by, so that translations have different lengths
SOURCE = np.array([[5, 9, 13, 4, EOS], [7, 7, 3, EOS, PAD], [21, EOS, PAD, PAD, PAD], [11, 2, 17, 19, EOS]])


OURS = Seq2SeqConfig(
    source_vocab_size=V, target_vocab_size=V, width=WIDTH, feedforward_width=24, num_heads=HEADS,
    num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, max_length=32, pad_id=PAD,
)  # fmt: skip
DEFINITION = define(lambda rngs: Seq2Seq(OURS, rngs=rngs))


class Both(NamedTuple):
    """The same model twice: Hugging Face's, and the parameters of ours."""

    theirs: Any
    params: dict


@pytest.fixture(scope="module")
def both() -> Both:
    torch.manual_seed(5)
    config = transformers.MarianConfig(
        vocab_size=V, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="relu",
        scale_embedding=True, max_position_embeddings=32, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
        decoder_start_token_id=PAD, forced_eos_token_id=None, init_std=0.6, dropout=0.0,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:  # positions are fixed
                parameter += 0.1 * torch.randn_like(parameter)
        theirs.final_logits_bias[0, EOS] = ENDS
    return Both(theirs, mapped(theirs.state_dict()))


def mapped(tensors: dict[str, Any]) -> dict:
    """Returns our parameters from Marian's tensors."""
    names = {
        "attention": "self_attn", "memory_attention": "encoder_attn", "attention_norm": "self_attn_layer_norm",
        "memory_norm": "encoder_attn_layer_norm", "feedforward_norm": "final_layer_norm", "up": "fc1", "down": "fc2",
        "query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj", "scale": "weight",
    }  # fmt: skip

    def of(path: tuple, leaf: Any) -> jax.Array:
        side, *way = (each.key for each in path)
        if side == "target_embedding":
            table = np.zeros(leaf.shape, np.float32)
            table[:V] = tensors["model.shared.weight"]
            return jnp.asarray(table)
        inner = ".".join(names.get(each, each) for each in way if each not in ("blocks", "feedforward"))
        found = [tensors[f"model.{side}.layers.{layer}.{inner}"].numpy() for layer in range(LAYERS)]
        return jnp.stack([jnp.asarray(x.T if way[-1] == "weight" else x).reshape(leaf.shape[1:]) for x in found])

    return jax.tree_util.tree_map_with_path(of, DEFINITION.shapes)


@functools.partial(jax.jit, static_argnames=("width", "start", "alpha", "settings"))
def searched(params, forced, *, width, start, alpha, settings):
    ids, rules = SpecialIds(pad=PAD, bos=start, eos=EOS), Rules(**dict(settings), forced=forced)
    model = DEFINITION.merge(params)
    step_of_model, cache = model.start_decoding(jnp.asarray(SOURCE, jnp.int32), slots=width * LONGEST)

    def step(*place):
        logits, cache = step_of_model(*place)
        return logits.at[..., EOS].add(ENDS), cache

    options = {"active": jnp.ones(len(SOURCE), bool), "max_length": LONGEST, "ids": ids, "rules": rules}
    if width == 1:
        return greedy_search(step, cache, **options)[:, None], jnp.zeros((len(SOURCE), 1))
    return tuple(beam_search(step, cache, beam_size=width, length_penalty=power_penalty(alpha), **options))


def up_to_end(words: Any) -> list[int]:
    words = [int(word) for word in words]
    return words[: words.index(EOS) + 1] if EOS in words else words


def compare(both: Both, *, start: int, width: int, alpha: float, rules: dict, forced: int | None, theirs: dict) -> list:
    """Asserts that both find the same, and returns the translations."""
    given = None if forced is None else jnp.full((len(SOURCE), 1), forced, jnp.int32)
    settings = tuple(sorted({"min_length": 0, "forced_eos": "none", **rules}.items()))
    tokens, scores = searched(both.params, given, width=width, start=start, alpha=alpha, settings=settings)
    suppressed = [PAD, *theirs.pop("suppress_tokens", [])]
    with torch.no_grad():
        found = both.theirs.generate(
            torch.tensor(SOURCE), attention_mask=torch.tensor(SOURCE != PAD), num_beams=width,
            num_return_sequences=width, max_length=LONGEST + 1, length_penalty=alpha, do_sample=False,
            decoder_start_token_id=start, suppress_tokens=suppressed, return_dict_in_generate=True,
            output_scores=True, forced_bos_token_id=forced, **theirs,
        )  # fmt: skip
    expected = [up_to_end(row[1:]) for row in found.sequences]
    mine = [up_to_end(row) for row in np.asarray(tokens).reshape(-1, LONGEST)]
    assert mine == expected
    if width > 1:
        np.testing.assert_allclose(np.ravel(scores), found.sequences_scores.numpy(), rtol=1e-4, atol=1e-5)
    return mine


@pytest.mark.parametrize(("alpha", "start"), [(0.0, EOS), (1.0, PAD), (2.0, EOS), (-0.5, PAD)])
@pytest.mark.parametrize("rule", [True, False, "never"])
def test_each_rule_of_early_stopping(both, start, alpha, rule):
    settings = {"start": start, "width": W, "alpha": alpha, "forced": None}
    compare(both, rules={"early_stopping": str(rule).lower()}, theirs={"early_stopping": rule}, **settings)


def test_the_rules_of_early_stopping_differ(both):
    settings = {"start": PAD, "width": W, "alpha": 1.0, "forced": None}
    found = [
        compare(both, rules={"early_stopping": str(rule).lower()}, theirs={"early_stopping": rule}, **settings)
        for rule in (True, False, "never")
    ]
    assert found[0] != found[1]
    assert found[1] != found[2]


CASES = {
    "no sequence twice": ({"no_repeat": 2}, None, {"no_repeat_ngram_size": 2}),
    "no word twice": ({"no_repeat": 1}, None, {"no_repeat_ngram_size": 1}),
    "repetition penalty": ({"repetition_penalty": 1.6}, None, {"repetition_penalty": 1.6}),
    "a penalty that is none": ({"repetition_penalty": 0.7}, None, {"repetition_penalty": 0.7}),
    "fewest words": ({"min_length": 5}, None, {"min_length": 6}),  # theirs counts the start token
    "first word": ({}, 7, {}),
    "suppressed words": ({"suppressed": (3, 8, 11, 12)}, None, {"suppress_tokens": [3, 8, 11, 12]}),
    "a forced end": ({"forced_eos": "free", "min_length": 8}, None, {"forced_eos_token_id": EOS, "min_length": 9}),
    "all of it": (
        {"no_repeat": 3, "repetition_penalty": 1.3, "min_length": 3, "suppressed": (9,), "early_stopping": "never"},
        6,
        {
            "no_repeat_ngram_size": 3,
            "repetition_penalty": 1.3,
            "min_length": 4,
            "suppress_tokens": [9],
            "early_stopping": "never",
        },
    ),
}


@pytest.mark.parametrize("width", [1, W])
@pytest.mark.parametrize("name", CASES)
def test_each_constraint(both, width, name):
    rules, forced, theirs = CASES[name]
    start = PAD if (list(CASES).index(name) + width) % 2 else EOS
    theirs = {"early_stopping": True, **theirs} if width > 1 else {k: v for k, v in theirs.items() if k[:5] != "early"}
    found = compare(both, start=start, width=width, alpha=1.0, rules=rules, forced=forced, theirs=theirs)
    plain = compare(
        both, start=start, width=width, alpha=1.0, rules={}, forced=None, theirs={"early_stopping": width > 1}
    )
    assert found != plain  # it made a difference
