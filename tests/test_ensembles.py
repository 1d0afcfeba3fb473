"""Models that translate together, against the mean of their probabilities computed apart, word by word."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.definition import define, member, stack
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.parameters import save_params
from lmx.saved import save_tokenizers
from lmx.search import Search
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.text import PretokenizedTokenizer
from lmx.translator import Translator

WORDS = PretokenizedTokenizer([f"w{number}" for number in range(15)])
CONFIG = Seq2SeqConfig(
    source_vocab_size=WORDS.vocab_size,
    target_vocab_size=WORDS.vocab_size,
    width=24,
    feedforward_width=20,
    num_heads=3,
    num_encoder_layers=1,
    num_decoder_layers=2,
    norm_position="pre",
    tied_embeddings="target",
    max_length=20,
)
DEFINITION = define(lambda rngs: Seq2Seq(CONFIG, rngs=rngs))
GREEDY = Search(beam_size=1, max_ratio=1.0, max_extra=2, batch_tokens=40)
BEAM = dataclasses.replace(GREEDY, beam_size=3, alpha=0.6)
LINES = [" ".join(f"w{word}" for word in np.random.default_rng(length).integers(0, 15, length)) for length in (3, 5, 6)]


def parameters(seed: int) -> dict:
    """Returns random parameters that translate different lines differently."""
    generator = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names, normal = jax.tree_util.keystr(path), generator.normal(size=leaf.shape)
        if "bias" in names or "scale" in names:
            return jnp.asarray(0.1 * normal + ("scale" in names), leaf.dtype)
        scale = 4.0 if "target_embedding" in names else 3.0
        return jnp.asarray(normal * scale * CONFIG.width**-0.5, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, DEFINITION.shapes)


MEMBERS = [parameters(seed) for seed in (3, 4, 5)]
TOGETHER = stack(MEMBERS)


def translator(params: dict, search: Search, **options) -> Translator:
    return Translator(CONFIG, params, source_tokenizer=WORDS, target_tokenizer=WORDS, search=search, **options)


@jax.jit
def _probabilities(params: dict, source: jax.Array, words: jax.Array) -> jax.Array:
    model = DEFINITION.merge(params)
    memory, _ = model.encode(source)
    states, _ = model.decode(memory, source, words)
    return jax.nn.softmax(model.logits(states)[0, :, : CONFIG.target_vocab_size])


def mean_probabilities(line: str, words: list[int]) -> np.ndarray:
    """Returns the mean over members of what each says of the words that follow the first ones, one model at a time."""
    source = jnp.asarray([[*WORDS.encode(line), WORDS.eos_id]])
    padded = jnp.asarray([[*words, *[WORDS.pad_id] * (20 - len(words))]])  # one shape; no word sees what follows
    found = [np.asarray(_probabilities(params, source, padded)) for params in MEMBERS]
    return np.mean(found, axis=0, dtype=np.float64)[: len(words)]


@pytest.fixture(scope="module")
def greedy() -> Translator:
    return translator(TOGETHER, GREEDY)


def test_greedy_search_takes_the_likeliest_word_by_the_mean_of_probabilities(greedy):
    for line, found in zip(LINES, greedy.translate(LINES), strict=True):
        words, last = [WORDS.bos_id], len(found.ids)
        for place in range(last):
            chances = mean_probabilities(line, words)[-1]
            chances[[WORDS.pad_id, WORDS.bos_id, *([WORDS.eos_id] if place == 0 else [])]] = 0
            best = int(chances.argmax())
            forced = place + 1 == last and last == 10  # the length limit of 8 source tokens and 2
            assert found.ids[place] == (WORDS.eos_id if forced else best)
            words.append(found.ids[place])


def test_the_score_of_a_beam_is_the_sum_of_logarithms_of_mean_probabilities():
    together = translator(TOGETHER, BEAM).translate(LINES)
    for line, found in zip(LINES, together, strict=True):
        chances = mean_probabilities(line, [WORDS.bos_id, *found.ids[:-1]])
        total = np.log(chances[np.arange(len(found.ids)), list(found.ids)]).sum()
        assert found.score == pytest.approx(total / len(found.ids) ** 0.6, rel=1e-4)


def test_an_ensemble_says_something_else_than_its_members(greedy):
    together = [each.text for each in greedy.translate(LINES)]
    alone = [[each.text for each in one.translate(LINES)] for one in greedy.alone()]
    assert all(together != each for each in alone)
    assert greedy.members == len(alone) == 3
    expected = [[each.text for each in translator(one, GREEDY).translate(LINES)] for one in MEMBERS]
    assert alone == expected


def test_copies_of_one_model_translate_as_it_does(greedy):
    copies = greedy.with_params(stack([MEMBERS[0]] * 3))
    alone = greedy.with_params(member(TOGETHER, 0))
    assert alone.members is None
    assert [each.ids for each in copies.translate(LINES)] == [each.ids for each in alone.translate(LINES)]


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_members_translate_together_on_a_mesh(greedy):
    mesh = make_mesh(MeshConfig(data=2, tensor=1, fsdp=4))
    found = translator(TOGETHER, GREEDY, layout=Layout(mesh)).translate(LINES)
    assert [each.ids for each in found] == [each.ids for each in greedy.translate(LINES)]


def test_a_run_of_seeds_is_loaded_whole(greedy, tmp_path: Path):
    facts = {"family": "seq2seq", "config": {"search": dataclasses.asdict(GREEDY), "max_length": 12}}
    (tmp_path / "config.json").write_text(json.dumps(facts | {"model": dataclasses.asdict(CONFIG)}))
    save_tokenizers(tmp_path, WORDS, WORDS)
    save_params(tmp_path / "model.safetensors", MEMBERS[1])
    with pytest.raises(FileNotFoundError, match="must hold several seeds for an ensemble"):
        Translator.load(tmp_path, ensemble=True)
    (tmp_path / "seeds").mkdir()
    for seed, params in zip((9, 10, 11), MEMBERS, strict=True):
        save_params(tmp_path / "seeds" / f"{seed}.safetensors", params)
    loaded = Translator.load(tmp_path, ensemble=True)
    assert [each.ids for each in loaded.translate(LINES)] == [each.ids for each in greedy.translate(LINES)]
    assert Translator.load(tmp_path).members is None
