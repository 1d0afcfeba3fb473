import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.cli import main
from lmx.decoding import Hypotheses
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.parameters import save_params
from lmx.saved import load_tokenizers, save_tokenizers
from lmx.search import Search
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import replicated
from lmx.sharding.rules import DEFAULT_RULES
from lmx.text import ByteTokenizer, PretokenizedTokenizer
from lmx.translator import TOKEN_BYTES, Translation, Translator

SOURCE = PretokenizedTokenizer([f"s{i}" for i in range(17)])
TARGET = PretokenizedTokenizer([f"t{i}" for i in range(15)])
CONFIG = Seq2SeqConfig(
    source_vocab_size=SOURCE.vocab_size,
    target_vocab_size=TARGET.vocab_size,
    width=24,
    feedforward_width=20,
    num_heads=3,
    num_encoder_layers=1,
    num_decoder_layers=2,
    norm_position="pre",
    positions="learned",
    tied_embeddings="target",
    max_length=20,
)
# 4 rows of 8 tokens or 2 of 16. Most tests take 4 lines of up to 7 words, or 2 longer ones: two programs are compiled.
SEARCH = Search(beam_size=2, length_penalty="gnmt", alpha=0.6, max_ratio=1.0, max_extra=3, batch_tokens=40)
MAX_SOURCE_LENGTH = 12


def parameters(*, seed: int = 3) -> dict:
    """Returns random parameters that translate different lines differently, and by wide margins."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Seq2Seq(CONFIG, rngs=nnx.Rngs(0))), nnx.Param))
    generator = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names, normal = jax.tree_util.keystr(path), generator.normal(size=leaf.shape)
        scale = 4.0 if "target_embedding" in names else 1.0 if "table" in names else 3.0
        if "bias" in names or "scale" in names:
            return jnp.asarray(0.1 * normal + ("scale" in names), leaf.dtype)
        return jnp.asarray(normal * scale * CONFIG.width**-0.5, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_translator(*, search: Search = SEARCH, seed: int = 3) -> Translator:
    return Translator(
        CONFIG,
        parameters(seed=seed),
        source_tokenizer=SOURCE,
        target_tokenizer=TARGET,
        search=search,
        max_source_length=MAX_SOURCE_LENGTH,
    )


def make_lines(*lengths: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(f"s{word}" for word in generator.integers(0, 17, length)) for length in lengths]


@pytest.fixture(scope="module")
def translator() -> Translator:
    return make_translator()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The files of a run that has ended, and no others."""
    directory = tmp_path_factory.mktemp("run")
    facts = {
        "family": "seq2seq",
        "config": {"search": dataclasses.asdict(SEARCH), "max_length": MAX_SOURCE_LENGTH, "seed": 3},
        "model": dataclasses.asdict(CONFIG),
    }
    (directory / "config.json").write_text(json.dumps(facts))
    save_params(directory / "model.safetensors", parameters())
    save_tokenizers(directory, SOURCE, TARGET)
    return directory


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(finished_run, tmp_path / "run")


# Lines in, lines out.


def test_every_line_is_translated_by_itself_and_in_order(translator):
    lines = make_lines(3, 9, 1, 6, 11, 2, 5, 7, 4, 10, 3, 8)
    found = translator.translate(lines)
    assert len({translation.text for translation in found}) > 5
    order = np.random.default_rng(1).permutation(len(lines))
    again = translator.translate([lines[i] for i in order])
    for place, i in enumerate(order):
        assert again[place].text == found[i].text
        assert again[place].ids == found[i].ids
        assert again[place].score == pytest.approx(found[i].score, rel=1e-5)
    among_others = translator.translate([*make_lines(1, 6, 7, seed=2), lines[3]])[-1]
    assert (among_others.text, among_others.ids) == (found[3].text, found[3].ids)


def test_ids_end_once_and_text_is_what_they_say(translator):
    for translation in translator.translate(make_lines(3, 7, 1, 6)):
        assert translation.ids.index(TARGET.eos_id) == len(translation.ids) - 1
        assert not {TARGET.pad_id, TARGET.bos_id} & set(translation.ids)
        assert translation.text == " ".join(TARGET.pieces(translation.ids[:-1]))
        assert translation.score < 0


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_a_line_end_among_the_words_is_a_space(translator, end):
    found = translator.translate(make_lines(3, 7, 1, 6))
    other = translator.with_params(translator.params)
    other.target_tokenizer = PretokenizedTokenizer([f"t{i}{end}" for i in range(15)])
    again = other.translate(make_lines(3, 7, 1, 6))
    assert [one.ids for one in again] == [one.ids for one in found]
    assert [one.text for one in again] == ["".join(f"{word}  " for word in one.text.split())[:-1] for one in found]


def test_empty_lines_give_empty_lines(translator):
    lines = make_lines(3, 6, 2, 5)
    found = translator.translate(["", *lines[:2], "  \t", *lines[2:], ""])
    assert [found.pop(i) for i in (6, 3, 0)] == [Translation("", (), 0.0)] * 3
    assert found == translator.translate(lines)
    assert translator.translate([]) == []
    assert translator.translate(["", ""]) == [Translation("", (), 0.0)] * 2


def test_words_that_the_vocabulary_lacks_are_translated_as_unknown(translator):
    found = translator.translate(["nowhere s3 seen", "never s3 met", "s3", "s3 s3"])
    assert found[0].ids == found[1].ids


def test_progress_counts_lines(translator):
    counts = []
    translator.translate(["", *make_lines(3, 4, 5, 6, 8, 9)], progress=counts.append)
    assert counts == [5, 7]


def test_long_lines_are_cut_and_counted(translator):
    tested = translator.with_params(translator.params)
    words = make_lines(30)[0].split()
    lines = [" ".join(words[:number]) for number in (30, 11, 12, 10)]
    found = tested.translate(lines)
    assert found[0].ids == found[1].ids == found[2].ids != found[3].ids
    assert tested.cut == 2  # 11 words and the end are 12 tokens
    tested.attention(lines[0], found[0])
    assert tested.cut == 2
    tested.translate(lines)
    assert tested.cut == 4
    other = tested.with_params(tested.params)
    assert (other.cut, other.limited) == (0, 0)


def test_other_parameters_share_what_is_compiled(translator):
    lines = make_lines(3, 9, 1, 6, 11, 2)
    first = translator.translate(lines)
    programs = translator._search._cache_size()
    other = translator.with_params(parameters(seed=5))
    assert [translation.ids for translation in other.translate(lines)] != [translation.ids for translation in first]
    assert translator.translate(lines) == first
    assert translator._search._cache_size() == programs


def test_batches_have_few_shapes_and_keep_within_their_tokens():
    batches = []

    def search(params, source, *, max_length):
        assert source.size <= max(1024, source.shape[1])
        batches.append((*source.shape, max_length))
        real = (source != CONFIG.pad_id).sum(-1)
        tokens = np.where(np.arange(3) < 2, 3 + real[:, None] % 15, TARGET.eos_id)  # each tells its source's length
        return Hypotheses(tokens[:, None], np.zeros((len(source), 1)))

    tested = Translator(
        dataclasses.replace(CONFIG, max_length=200),
        parameters(),
        source_tokenizer=SOURCE,
        target_tokenizer=TARGET,
        search=Search(batch_tokens=1024, max_ratio=1.5, max_extra=6),
    )
    tested._search = search
    lengths = np.random.default_rng(0).integers(1, 180, 3000)
    found = tested.translate(make_lines(*lengths))
    assert [translation.ids[0] for translation in found] == (3 + (lengths + 1) % 15).tolist()
    # Sources are padded to 8, 16, 32, 64, 128 or all positions there are; full batches and a rest of each.
    assert len(set(batches)) <= 2 * 6
    assert {(columns, longest) for _, columns, longest in batches} == {
        (8, 18),
        (16, 30),
        (32, 54),
        (64, 102),
        (128, 198),
        (200, 200),  # the model has no more positions
    }
    assert sum(rows for rows, _, _ in batches) < 1.1 * len(lengths)


@pytest.mark.parametrize(("positions", "padded"), [("learned", 100), ("sinusoidal", 128)])
def test_sources_are_padded_to_no_more_than_learned_positions_reach(positions, padded):
    shapes = []

    def search(params, source, *, max_length):
        shapes.append(source.shape[1])
        return Hypotheses(np.full((len(source), 1, 1), TARGET.eos_id), np.zeros((len(source), 1)))

    config = dataclasses.replace(CONFIG, max_length=100, positions=positions)
    tested = Translator(config, parameters(), source_tokenizer=SOURCE, target_tokenizer=TARGET, search=Search())
    tested._search = search
    assert tested.max_source_length == 100
    tested.translate(make_lines(70, 3))
    assert shapes == [8, padded]


def test_a_source_has_at_least_a_token():
    with pytest.raises(ValueError, match=r"^max_source_length must be at least 1, got 0\.$"):
        Translator(
            CONFIG, parameters(), source_tokenizer=SOURCE, target_tokenizer=TARGET, search=Search(), max_source_length=0
        )


@pytest.fixture(scope="module")
def greedy() -> Translator:
    return make_translator(search=dataclasses.replace(SEARCH, beam_size=1))


def test_greedy_has_no_scores(translator, greedy):
    found = greedy.translate(make_lines(3, 4, 5, 6))
    assert all(translation.ids[-1] == TARGET.eos_id and translation.score == 0 for translation in found)
    assert str(greedy.search) == "greedy"
    assert str(translator.search) == "beam 2, gnmt length penalty 0.6"


def test_only_those_are_limited_that_end_at_the_longest_length(greedy, monkeypatch):
    other = greedy.with_params(parameters())

    def search(params, source, *, max_length):
        """Ends the translations of a batch at the longest length, one before it, and at once."""
        tokens = np.full((source.shape[0], 1, max_length), 5, np.int32)
        for row, length in enumerate((max_length, max_length - 1, 1)):
            tokens[row, 0, length - 1] = TARGET.eos_id
        return SimpleNamespace(tokens=tokens, scores=np.zeros(tokens.shape[:2], np.float32))

    monkeypatch.setattr(other, "_search", search)
    found = other.translate(make_lines(3, 3, 3))
    assert [len(translation.ids) for translation in found] == [11, 10, 1]
    assert other.limited == 1


def test_translations_that_do_not_end_are_ended(greedy):
    params = parameters()
    table = params["target_embedding"]["table"]
    params["target_embedding"]["table"] = table.at[TARGET.eos_id].set(0.0)  # some other word's logit is above 0
    endless = greedy.with_params(params)
    found = endless.translate([*make_lines(3, 4, 5), ""])
    assert [len(translation.ids) for translation in found] == [8 + 3] * 3 + [0]
    assert all(translation.ids[-1] == TARGET.eos_id for translation in found[:3])
    assert endless.limited == 3
    other = endless.with_params(params)
    assert other.limited == 0
    other.translate(make_lines(3, 4, 5, 6))
    assert (other.limited, endless.limited) == (4, 3)


def test_a_translation_has_its_fewest_tokens(greedy):
    lines, params = make_lines(3, 7, 5, 6), parameters()
    table = params["target_embedding"]["table"]
    first = greedy.translate(lines)[0].ids[0]  # the end will be likelier than this word
    params["target_embedding"]["table"] = table.at[TARGET.eos_id].set(1.5 * table[first])

    def shortest(**settings: int) -> int:
        tested = make_translator(search=dataclasses.replace(SEARCH, **settings)).with_params(params)
        return min(len(translation.ids) for translation in tested.translate(lines))  # the end is one

    assert shortest(beam_size=1, min_length=0) == 1
    assert shortest(beam_size=1) == 2
    assert shortest(beam_size=1, min_length=6) == 7
    assert shortest(beam_size=2, min_length=6) >= 7


def test_the_command_line_says_what_it_cut_and_ended(run, monkeypatch, capsys, tmp_path):
    given = tmp_path / "lines.txt"
    given.write_text("".join(f"{line}\n" for line in [*make_lines(30, 3, 5), "", "  "]), encoding="utf-8")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings
    arguments = ["translate", str(run), "--input", str(given), "--beam-size", "1", "--min-length", "50"]
    monkeypatch.setattr("sys.argv", ["lmx", *arguments])
    main()
    printed = capsys.readouterr()
    lines = printed.out.split("\n")
    assert [bool(line) for line in lines] == [True, True, True, False, False, False]
    # No room for 50 tokens: all that were translated end at the limit.
    assert "5 lines in " in printed.err
    assert ", 2 empty, 1 cut to 12 tokens, 3 translations ended by the length limit" in printed.err


def test_impossible_searches_are_errors():
    with pytest.raises(ValueError, match=r"beam_size must be at least 1, got beam_size=0\."):
        Search(beam_size=0)
    with pytest.raises(ValueError, match=r"batch_tokens must be at least 1, got batch_tokens=0\."):
        Search(batch_tokens=0)
    with pytest.raises(ValueError, match=r"min_length must be at least 0, got min_length=-1\."):
        Search(min_length=-1)


# Memory.


def sized(words: int, *, width: int = 128, **search: int) -> Translator:
    """A translator of Multi30k's tiny shape without parameters, its target vocabulary of so many words."""
    config = dataclasses.replace(
        CONFIG, target_vocab_size=words, width=width, feedforward_width=2 * width, num_heads=4, max_length=1024,
        positions="sinusoidal", num_encoder_layers=2, num_decoder_layers=4,
    )  # fmt: skip
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))), nnx.Param))
    return Translator(
        config, shapes, source_tokenizer=SOURCE, target_tokenizer=TARGET, search=Search(**{"beam_size": 5} | search)
    )


QUICK_SIZES = {(250_000, 8), (1000, 512)}
SIZES = [
    pytest.param(words, length, marks=() if (words, length) in QUICK_SIZES else pytest.mark.slow)
    for words in (1000, 10_000, 250_000)
    for length in (8, 64, 128, 512)
]


@pytest.mark.parametrize(("words", "length"), SIZES)
def test_the_memory_of_a_search_is_bounded_at_any_length_and_vocabulary(words, length):
    translator = sized(words)
    rows = translator._rows(length, 10**6)
    assert rows & (rows - 1) == 0  # a power of two
    source = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    target = translator._max_target_length(length)
    lowered = translator._search.lower(translator.params, source, max_length=target)
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    # The decoder's layers are taken apart, which copies their parameters.
    copied = sum(4 * leaf.size for leaf in jax.tree.leaves(translator.params["decoder"]))
    assert compiled.memory_analysis().temp_size_in_bytes <= 2048 * TOKEN_BYTES + copied


def test_only_large_vocabularies_and_models_make_batches_of_fewer_rows():
    for length in (8, 16, 32, 64, 128, 256, 512):
        assert sized(10_000)._rows(length, 10**6) == 2048 // length
    assert [sized(250_000)._rows(length, 10**6) for length in (8, 64, 128)] == [32, 16, 16]
    assert sized(250_000, batch_tokens=512)._rows(8, 10**6) == 8
    assert sized(250_000, batch_tokens=1)._rows(8, 10**6) == 1
    assert sized(250_000, beam_size=1)._rows(8, 10**6) > sized(250_000)._rows(8, 10**6)


def test_batches_of_fewer_rows_give_the_same_translations(translator, monkeypatch):
    lines = make_lines(3, 7, 1, 6, 9)
    expected = translator.translate(lines)
    monkeypatch.setattr("lmx.translator.TOKEN_BYTES", 1)
    assert translator._rows(8, 4) == 1
    found = translator.translate(lines)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], rel=1e-5)


# Attention.


def test_attention_maps_have_a_row_for_each_target_piece(translator):
    line, *others = make_lines(5, 2, 3, 4)
    translation = translator.translate([line, *others])[0]
    found = translator.attention(line, translation)
    assert found["source"] == [*line.split(), "</s>"]
    assert found["target"] == [*translation.text.split(), "</s>"]
    layers, heads = CONFIG.num_decoder_layers, CONFIG.num_heads
    assert found["weights"].shape == (layers, heads, len(translation.ids), 6)
    np.testing.assert_allclose(found["weights"].sum(-1), 1, rtol=1e-5)
    assert (found["weights"] >= 0).all()


def test_maps_of_the_same_lengths_are_of_one_program(translator):
    before = translator._look._cache_size()
    for one in (translator, translator.with_params(parameters())):
        for line in make_lines(11, 11):
            one.attention(line, Translation("", (4, 5, 6, 7), 0.0))
    assert translator._look._cache_size() == before + 1


# Several devices.


def test_devices_that_search_together_find_what_one_finds(translator, monkeypatch):
    # Parameters on all, rows on three parts, as these rules say: of 4 and of 2 lines, which are filled up.
    mesh = make_mesh(MeshConfig(data=2, sequence=3), devices=jax.devices()[:6])
    rules = {**DEFAULT_RULES, "batch": ("sequence",)}
    together = Translator(
        CONFIG,
        jax.device_put(parameters(), replicated(mesh)),
        source_tokenizer=SOURCE,
        target_tokenizer=TARGET,
        search=SEARCH,
        max_source_length=MAX_SOURCE_LENGTH,
        layout=Layout(mesh, rules),
    )
    search, placed = together._search, []

    def watched(params, source, **options):
        placed.append(source)
        return search(params, source, **options)

    monkeypatch.setattr(together, "_search", watched)
    lines = make_lines(3, 7, 1, 6, 9)
    expected = translator.translate(lines)
    found = together.translate(lines)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], rel=1e-5)
    assert {len(rows) // rows.sharding.shard_shape(rows.shape)[0] for rows in placed} == {3}
    seen, maps = (one.attention(lines[0], expected[0])["weights"] for one in (together, translator))
    np.testing.assert_allclose(seen, maps, rtol=1e-4, atol=1e-6)


# Run directories.


def test_a_run_directory_is_enough_to_translate(translator, run):
    lines = ["", *make_lines(3, 7, 1, 6)]
    loaded = Translator.load(run)
    assert (loaded.config, loaded.search, loaded.max_source_length) == (CONFIG, SEARCH, MAX_SOURCE_LENGTH)
    assert loaded.translate(lines) == translator.translate(lines)
    assert Translator.load(run, search=Search(beam_size=1)).search == Search(beam_size=1)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: shutil.rmtree(run), FileNotFoundError, "run must be a run directory: it has no config.json"),
        (
            lambda run: (run / "config.json").write_text('{"family": "decoder"}'),
            ValueError,
            "run must hold a model that translates, got family=decoder",
        ),
        (lambda run: (run / "config.json").write_text('{"fam'), ValueError, r"config.json must be JSON, got .*line 1"),
        (
            lambda run: (run / "config.json").write_text('{"family": "seq2seq", "config": {}}'),
            FileNotFoundError,
            "run must hold a trained model: its training has not begun",
        ),
        (
            lambda run: (run / "model.safetensors").unlink(),
            FileNotFoundError,
            "model.safetensors must exist: it is written when training ends",
        ),
        (
            lambda run: save_params(run / "model.safetensors", {"table": np.zeros((2, 3))}),
            ValueError,
            "model.safetensors must fit the model, got ",
        ),
        (lambda run: (run / "source.vocab").unlink(), FileNotFoundError, "run must hold a tokenizer"),
    ],
)
def test_directories_that_cannot_translate_say_why(run, damage, error, message):
    damage(run)
    with pytest.raises(error, match=message):
        Translator.load(run)


def test_a_joint_tokenizer_is_kept_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold a tokenizer \(tokenizer\.model, or source\.\* and target"):
        load_tokenizers(tmp_path)
    save_tokenizers(tmp_path, SOURCE, SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.vocab"]
    source, target = load_tokenizers(tmp_path)
    assert source is target
    assert source.encode("s3 s16") == SOURCE.encode("s3 s16")


def test_two_tokenizers_may_be_of_different_kinds(tmp_path):
    save_tokenizers(tmp_path, ByteTokenizer(), TARGET)
    source, target = load_tokenizers(tmp_path)
    assert isinstance(source, ByteTokenizer)
    assert target.pieces(range(TARGET.vocab_size)) == TARGET.pieces(range(TARGET.vocab_size))
