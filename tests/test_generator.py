"""Prompts in, texts out: a small random decoder that writes bytes, pieces or words."""

import dataclasses
import gc
import json
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.generator import Frame, Generated, Generator
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.parameters import save_params
from lmx.sampling import Sampling
from lmx.saved import save_tokenizer
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.text import PretokenizedTokenizer, Tokenizer

WORDS = PretokenizedTokenizer([f"w{i}" for i in range(30)])
CONFIG = DecoderConfig(
    vocab_size=WORDS.vocab_size,
    width=24,
    feedforward_width=20,
    num_heads=4,
    num_kv_heads=2,
    num_layers=2,
    max_length=26,
)
SAMPLING = Sampling(max_tokens=9, seed=5)
PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12 w13 w14", "", "w2 w1"]


def parameters(config: DecoderConfig = CONFIG, *, seed: int = 3) -> dict:
    """Returns random parameters whose logits are a few units apart, so that texts differ by prompt and seed."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))), nnx.Param))
    generator = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names, normal = jax.tree_util.keystr(path), generator.normal(size=leaf.shape)
        scale = 2.0 if "output_embedding" in names else 1.5
        return jnp.asarray(normal * scale * config.width**-0.5 + ("scale" in names), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_generator(**changes) -> Generator:
    given = {"tokenizer": WORDS, "sampling": SAMPLING, "rows": 4}
    return Generator(CONFIG, parameters(), **(given | changes))


@pytest.fixture(scope="module")
def generator() -> Generator:
    return make_generator()


@pytest.fixture(scope="module")
def model() -> Decoder:
    definition = nnx.graphdef(nnx.eval_shape(lambda: Decoder(CONFIG, rngs=nnx.Rngs(0))))
    return nnx.merge(definition, parameters())


def whole_logits(model: Decoder, ids: list[int]) -> np.ndarray:
    """The logits behind each token of a text, by one pass over the whole text."""
    row = np.zeros((1, CONFIG.max_length), np.int32)
    row[0, : len(ids)] = ids
    return np.array(run(model, row)[0, : len(ids), : CONFIG.vocab_size])


run = jax.jit(lambda model, row: model.logits(model(row)[0]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))


def test_a_text_ends_where_no_word_is_left():
    words = PretokenizedTokenizer([f"w{i}" for i in range(4)])
    config = dataclasses.replace(CONFIG, vocab_size=words.vocab_size)
    sampling = Sampling(no_repeat=1, max_tokens=20, min_tokens=15, seed=2)
    writer = Generator(config, parameters(config), tokenizer=words, sampling=sampling, rows=2)
    for temperature in (0.0, 1.0):
        for found in writer.generate(["w1", "w0 w2"], temperature=temperature):
            *written, end = found.tokens
            assert (end, found.stopped_by) == (words.eos_id, "end")
            known = {words.unk_id, *words.encode("w0 w1 w2 w3")} - {*words.encode(found.prompt)}
            assert sorted(written) == sorted(known)
            assert np.isfinite(found.logprob)


def prompt_ids(prompt: str) -> list[int]:
    return WORDS.encode(prompt) or [WORDS.eos_id]


# What is written.


def test_the_likeliest_words_are_those_of_the_whole_text(generator, model):
    for found in generator.generate(PROMPTS, temperature=0.0):
        ids = prompt_ids(found.prompt)
        total = 0.0
        for word in found.tokens:
            logits = whole_logits(model, ids)[-1]
            total += float(log_softmax(logits)[word])
            logits[[WORDS.pad_id, WORDS.bos_id]] = -np.inf
            assert word == int(logits.argmax())
            ids.append(word)
        assert found.logprob == pytest.approx(total, abs=1e-3)


def test_a_text_ends_at_each_of_its_ends(generator):
    found = generator.generate(PROMPTS, temperature=0.0)
    usual = next(each for each in found if len(set(each.tokens[:4])) > 2)
    prompt, end = usual.prompt, next(word for word in usual.tokens[1:4] if word != usual.tokens[0])
    place = usual.tokens.index(end)
    several = make_generator(frame=Frame(ends=(WORDS.eos_id, end)))
    (found,) = several.generate(prompt, temperature=0.0)
    assert found.tokens == usual.tokens[: place + 1]
    assert found.stopped_by == "end"
    assert found.text.split() == [WORDS.decode([word]) for word in usual.tokens[:place]]
    assert "".join(several.stream(prompt, temperature=0.0)) == found.text
    assert end not in several.generate(prompt, temperature=0.0, min_tokens=9)[0].tokens[:9]


def test_texts_come_in_the_order_of_the_prompts_and_end_as_they_say(generator):
    found = generator.generate(PROMPTS, num_samples=2)
    assert [one.prompt for one in found] == [prompt for prompt in PROMPTS for _ in range(2)]
    for one in found:
        end = one.tokens[-1] == WORDS.eos_id
        assert one.stopped_by == ("end" if end else "max_tokens")
        assert len(one.tokens) == SAMPLING.max_tokens or end
        assert not {WORDS.pad_id, WORDS.bos_id} & set(one.tokens)
        assert WORDS.eos_id not in one.tokens[:-1]
        words = " ".join(WORDS.pieces(one.tokens[: len(one.tokens) - end]))
        assert one.text == (f" {words}" if one.prompt else words)
    assert {one.stopped_by for one in found} == {"end", "max_tokens"}
    assert len({one.text for one in found}) > 6
    assert generator.generate([]) == []
    assert generator.generate("w4") == generator.generate(["w4"])


@pytest.mark.parametrize(
    "changes", [{}, {"top_k": 9, "top_p": 0.8}, {"repetition_penalty": 1.4, "no_repeat": 2}], ids=str
)
def test_a_prompt_gets_the_same_text_alone_and_among_others(generator, changes):
    together = generator.generate(PROMPTS, **changes)
    alone = [generator.generate([prompt], **changes)[0] for prompt in reversed(PROMPTS)]
    assert alone[::-1] == together  # to the last bit, log-probabilities too
    again = generator.generate([*PROMPTS[3:], "w9 w9", *PROMPTS[:3]], **changes)
    assert [*again[3:], *again[:2]] == together


def test_samples_of_one_prompt_differ_and_do_not_depend_on_how_they_are_asked_for(generator):
    three = generator.generate(["w4"], num_samples=3)
    assert len({one.tokens for one in three}) == 3
    assert generator.generate(["w4", "w5", "w4", "w4"])[::1] == [three[0], generator.generate("w5")[0], *three[1:]]
    assert generator.generate("w4", seed=6)[0].tokens not in {one.tokens for one in three}


def test_rows_that_are_not_fixed_give_the_same_words(generator):
    free = make_generator(rows=None)
    found, expected = free.generate(PROMPTS), generator.generate(PROMPTS)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-4)
    for writer, rows, groups in ((free, [1, 2, 4, 8, 8], [64, 6]), (generator, [4] * 5, [4] * 17 + [2])):
        assert [writer._writer._batch_rows(number) for number in (1, 2, 3, 5, 8)] == rows
        assert list(map(len, writer._writer.groups([3] * 70))) == groups
    assert free._writer.groups([9, 3, 16, 8, 17]) == [[1, 3], [0, 2], [4]]


def test_a_text_is_at_least_as_long_as_asked_and_repeats_nothing(generator):
    assert any(len(one.tokens) < 6 for one in generator.generate(PROMPTS, num_samples=3))
    assert all(len(one.tokens) >= 6 for one in generator.generate(PROMPTS, num_samples=3, min_tokens=5))
    for one in generator.generate(PROMPTS, num_samples=3, no_repeat=1, min_tokens=8):
        ids = [*prompt_ids(one.prompt), *one.tokens[:8]]
        assert len(set(ids)) == len(ids)


def test_a_penalty_makes_words_rarer_that_were_there(generator):
    def repeated(**changes) -> int:
        found = generator.generate(PROMPTS, num_samples=4, min_tokens=8, temperature=0.7, **changes)
        return sum(len(one.tokens) - len(set(one.tokens) - set(prompt_ids(one.prompt))) for one in found)

    assert repeated(repetition_penalty=3.0) < 0.7 * repeated()


def test_what_is_compiled_holds_no_parameters():
    whole = make_generator()
    whole.generate(PROMPTS[:1], max_tokens=2)
    held = [weakref.ref(leaf) for leaf in jax.tree.leaves(whole._writer._parts)]
    bare = whole.without_params()
    del whole
    gc.collect()
    assert held
    assert not any(one() for one in held)
    assert bare.with_params(parameters()).generate(PROMPTS[:1], max_tokens=2)


def test_what_stands_behind_a_prompt_is_read_and_its_text_begins_anew(generator):
    other = generator.without_params().with_params(parameters())
    (word,) = WORDS.encode("w3")
    other.frame = Frame(separator=word)
    (apart,), (beside,) = (
        one.generate(prompt, temperature=0.0, min_tokens=4)
        for one, prompt in ((other, "w1 w2"), (generator, "w1 w2 w3"))
    )
    assert apart.tokens == beside.tokens
    assert f" {apart.text}" == beside.text
    assert (generator._prompt_ids(""), other._prompt_ids("")) == ([WORDS.eos_id], [word])
    other.frame = Frame(first=WORDS.bos_id)
    assert other._prompt_ids("") == [WORDS.bos_id]


# Where texts end.


def test_the_context_ends_a_text(generator):
    long = " ".join(["w1"] * (CONFIG.max_length - 3))
    found = generator.generate([long, "w1"], min_tokens=9)
    assert [len(one.tokens) for one in found] == [3, 9]
    assert [one.stopped_by for one in found] == ["context", "max_tokens"]
    for number, what in ((CONFIG.max_length, "a prompt must leave room for a token"),):
        text = " ".join(["w1"] * number)
        with pytest.raises(
            ValueError, match=rf"^{what} in the context of the model, .* at most 25 tokens, got 26 in 'w1"
        ):
            generator.generate(["w2", text])


def test_a_stop_string_ends_a_text_before_it(generator):
    free = generator.generate(PROMPTS, min_tokens=9)
    for index, one in enumerate(free):
        words = WORDS.pieces(one.tokens)
        stop = f"{words[3]} {words[4][:2]}"  # over two tokens, and ends inside one
        found = generator.generate(PROMPTS, min_tokens=9, stop=("never", stop))[index]
        place = one.text.index(stop)
        assert found.text == one.text[:place]
        assert found.tokens == one.tokens[: len(found.tokens)]
        assert (found.stopped_by, len(found.tokens) <= 5) == ("stop", True)
        # The words that it met are those that hold the stop string, and no more.
        assert stop in " ".join(WORDS.pieces(found.tokens))
        assert stop not in " ".join(WORDS.pieces(found.tokens[:-1]))
    never = generator.generate(PROMPTS, min_tokens=9, stop=("never",))
    assert never == free
    assert {one.stopped_by for one in never} == {"max_tokens"}


@pytest.mark.parametrize("changes", [{}, {"stop": ("w1",)}, {"stop": ("never", "w")}], ids=str)
def test_what_is_streamed_is_what_is_generated(generator, changes):
    for prompt in PROMPTS[:3]:
        pieces = list(generator.stream(prompt, **changes))
        (one,) = generator.generate(prompt, **changes)
        assert "".join(pieces) == one.text
        assert all(pieces)
        assert len(pieces) >= min(len(one.tokens) - 1, 3) or changes


# Logits and scores.


def test_scores_are_the_log_probabilities_of_the_whole_text(generator, model):
    texts = ["w1 w2 w3", "w4", "", " ".join(["w3 w8"] * (CONFIG.max_length // 2))]
    for text, found in zip(texts, generator.score(texts), strict=True):
        ids = WORDS.encode(text)
        logs = log_softmax(whole_logits(model, [WORDS.eos_id, *ids[:-1]]))
        expected = [float(logs[place, word]) for place, word in enumerate(ids)]
        assert found.tokens == tuple(ids)
        np.testing.assert_allclose(found.logprobs, expected, atol=1e-4)
        assert found.logprob == pytest.approx(sum(expected), abs=1e-3)
    with pytest.raises(
        ValueError, match=r"^a text must fit in the context of the model, .* at most 26 tokens, got 27 in"
    ):
        generator.score(" ".join(["w1"] * 27))


def test_logits_are_those_of_the_model(generator, model):
    found = generator.logits("w1 w2 w3")
    assert found.shape == (3, CONFIG.vocab_size)
    np.testing.assert_allclose(found, whole_logits(model, WORDS.encode("w1 w2 w3")), atol=1e-4)


def test_what_is_written_has_the_score_that_it_says(generator):
    first = dataclasses.replace(SAMPLING, min_tokens=8)
    with_start = make_generator(frame=Frame(first=WORDS.bos_id), sampling=first)
    (one,) = with_start.generate("w1 w2")
    words = [*WORDS.encode("w1 w2"), *one.tokens]
    if one.tokens[-1] != WORDS.eos_id:
        scored = with_start.score(" ".join(WORDS.pieces(words)))[0]
        assert one.logprob == pytest.approx(sum(scored.logprobs[2:]), abs=1e-3)
        assert scored.tokens == tuple(words)
    assert one != generator.generate("w1 w2", min_tokens=8)[0]


# On a mesh, and out of a run.


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        pytest.param({"data": 1, "fsdp": 4, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 4, "fsdp": 1, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_devices_write_together_what_one_writes(generator, mesh):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    together = make_generator(layout=Layout(make_mesh(MeshConfig(**mesh), devices=jax.devices()[:8])))
    found = together.generate(PROMPTS, stop=("w11",))
    expected = generator.generate(PROMPTS, stop=("w11",))
    assert [(one.text, one.tokens, one.stopped_by) for one in found] == [
        (one.text, one.tokens, one.stopped_by) for one in expected
    ]
    np.testing.assert_allclose(together.score("w1 w2")[0].logprobs, generator.score("w1 w2")[0].logprobs, atol=1e-4)


def make_run(directory: Path, *, tokenizer: Tokenizer = WORDS, config: DecoderConfig = CONFIG, **chosen) -> Path:
    """Writes what a finished pretraining leaves, as far as writing text needs it."""
    directory.mkdir(exist_ok=True)
    facts = {"family": "decoder", "model": dataclasses.asdict(config), "config": chosen}
    (directory / "config.json").write_text(json.dumps(facts))
    save_params(directory / "model.safetensors", parameters(config))
    save_tokenizer(directory, tokenizer)
    return directory


def test_a_run_writes_as_its_generator_does(tmp_path, generator):
    run = make_run(tmp_path / "run", sampling=dataclasses.asdict(SAMPLING))
    loaded = Generator.load(run, rows=4)
    assert loaded.sampling == SAMPLING
    assert loaded.generate(PROMPTS) == generator.generate(PROMPTS)
    other = loaded.with_params(parameters(seed=4))
    assert other.generate(PROMPTS) != loaded.generate(PROMPTS)
    assert other.with_params(parameters()).generate(PROMPTS) == loaded.generate(PROMPTS)
    facts = json.loads((make_run(tmp_path / "other") / "config.json").read_text())
    facts |= {"first_id": 1, "separator_id": 9, "end_ids": [5, 6]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(facts))
    framed = Generator.load(tmp_path / "other")
    assert (framed.sampling, framed.frame) == (Sampling(), Frame(1, 9, (5, 6)))
    with pytest.raises(
        ValueError, match=r"must hold a model that reads prompts from left to right, got a prefix model"
    ):
        Generator.load(make_run(tmp_path / "prefix", objective="prefix"))


def test_a_run_of_another_kind_or_without_a_tokenizer_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "tokenizer.vocab").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"run must hold a tokenizer \(tokenizer\.model, \.vocab or \.bytes\)\.$"
    ):
        Generator.load(run)
    (run / "config.json").write_text(json.dumps({"family": "seq2seq", "model": {}}))
    with pytest.raises(ValueError, match=r"run must hold a model that writes text, got family=seq2seq\.$"):
        Generator.load(run)
    with pytest.raises(FileNotFoundError, match=r"must be a run directory: it has no config\.json\.$"):
        Generator.load(tmp_path)


def test_a_model_of_other_ids_is_refused():
    small = dataclasses.replace(CONFIG, vocab_size=20)
    message = r"^the model must read the ids of the tokenizer, got vocab_size=20 and pad_id=0, and 34 and 0 of the"
    with pytest.raises(ValueError, match=message):
        Generator(small, parameters(small), tokenizer=WORDS)
    with pytest.raises(ValueError, match=r"^rows must be at least 1, or None for as many as there are, got rows=0\.$"):
        make_generator(rows=0)
    with pytest.raises(ValueError, match=r"^num_samples must be at least 1, got num_samples=0\.$"):
        make_generator().generate("w1", num_samples=0)


def test_a_text_says_what_it_is():
    assert [field.name for field in dataclasses.fields(Generated)] == [
        "prompt",
        "text",
        "tokens",
        "logprob",
        "stopped_by",
    ]
