"""A choice reaches what it is a choice of: no field is lost or changed on the way from a record to what takes it."""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.augmentation import AugmentationConfig
from lmx.cli import Classify, iterate_texts
from lmx.config import SelectionConfig
from lmx.data import labelled_files, reading
from lmx.data.cache import Cache
from lmx.data.labelled import Examples
from lmx.data.labelled_files import Fields
from lmx.data.reading import Reading, ReadingChanges
from lmx.decoding import SpecialIds
from lmx.evaluation import translation as evaluation
from lmx.evaluation.translation import ScoringConfig
from lmx.experiment import learn_tokenizer
from lmx.learner import Learner
from lmx.optimization import make_schedule
from lmx.optimizers import updated_by
from lmx.pieces import LabelledVocabularyConfig, TextVocabularyConfig, VocabularyConfig
from lmx.sampling import Sampling
from lmx.scoring.translation import Score
from lmx.search import Search, rules_of
from lmx.text import ByteTokenizer, SentencePieceTokenizer
from lmx.translate_command import OF_SEARCH, Translate
from lmx.translator import Translation
from lmx.writing_commands import Generate

ROOT = Path(__file__).parents[1]


def names_of(record: Any) -> set[str]:
    return {each.name for each in dataclasses.fields(record)}


# Records.

SEARCH = Search(
    beam_size=1, min_length=3, early_stopping="never", forced_eos="free", suppress=(7, 9), no_repeat=4,
    repetition_penalty=1.5, temperature=0.7, top_k=11, top_p=0.6, seed=13,
)  # fmt: skip


def test_a_search_draws_by_all_that_it_shares_with_a_sampling() -> None:
    shared = (names_of(Search) & names_of(Sampling)) - {"max_tokens"}
    assert {"temperature", "top_k", "top_p", "no_repeat", "repetition_penalty", "seed"} <= shared
    made = SEARCH.sampling()
    for name in shared:
        assert getattr(made, name) == getattr(SEARCH, name) != getattr(Sampling(), name), name


def test_a_search_has_all_of_its_rules() -> None:
    rules, first = rules_of(replace(SEARCH, forced_bos=20), ByteTokenizer(), special=SpecialIds(0, 1, 2))
    assert (rules.suppressed, first) == ((7, 9), (20,))
    for name in ("min_length", "early_stopping", "forced_eos", "no_repeat", "repetition_penalty"):
        assert getattr(rules, name) == getattr(SEARCH, name) != getattr(Search(), name), name


def test_commands_change_what_they_share_with_a_record() -> None:
    assert set(OF_SEARCH) == names_of(Translate) & names_of(Search)
    listed = re.findall(r'"(\w+)"', "".join(re.findall(r"names = \(.*\)\n", source_of("generate"))))
    assert set(listed) == names_of(Generate) & names_of(Sampling)


def source_of(name: str) -> str:
    return inspect.getsource(getattr(importlib.import_module("lmx.writing_commands"), name))


def test_a_vocabulary_is_learned_by_every_setting(tmp_path: Path, monkeypatch) -> None:
    asked: list[dict[str, Any]] = []

    def train(texts: Any, **settings: Any) -> SentencePieceTokenizer:
        asked.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(SentencePieceTokenizer, "train", train)
    settings: dict[str, Any] = {"vocab_size": 31, "max_texts": 5, "character_coverage": 0.99}
    kinds: tuple[tuple[VocabularyConfig, dict[str, Any]], ...] = (
        (VocabularyConfig(**settings), {}),
        (LabelledVocabularyConfig(**settings), {"folding": "compatibility"}),
        (LabelledVocabularyConfig(**settings, lowercase=True), {"folding": "case"}),
        (TextVocabularyConfig(**settings), {"folding": "none", "byte_fallback": True}),
    )
    for config, more in kinds:
        options = getattr(config, "options", dict)()
        with pytest.raises(KeyboardInterrupt):
            learn_tokenizer(config, "sentencepiece", lambda: ["a"], cache=Cache(None), facts=dict, about="a", **options)
        assert asked.pop() == settings | more
    assert names_of(VocabularyConfig) == {"vocabulary", *settings}


@pytest.mark.parametrize(
    ("config", "kind", "text", "known"),
    [
        (LabelledVocabularyConfig(tokenizer="words", min_count=2), "words", "b a b", "b"),
        (TextVocabularyConfig(tokenizer="words", min_count=2), "symbols", "b a b", "b"),
        (TextVocabularyConfig(tokenizer="characters", min_count=3), "symbols", "abbb", "b"),
    ],
)
def test_what_is_as_frequent_as_asked_is_known(config: Any, kind: Any, text: str, known: str) -> None:
    made = learn_tokenizer(config, kind, lambda: [text], cache=Cache(None), facts=dict, about="a", **config.options())
    assert made.pieces(range(4, made.vocab_size)) == [known]


ELSE: dict[str, Any] = {
    "text_columns": ("said",), "joiner": " - ", "label_column": "kind", "label_separator": ";", "form": "tsv",
    "columns": ("said", "kind"), "delimiter": "|", "quoting": True, "encoding": "latin-1", "field_limit": 99,
}  # fmt: skip


def test_files_are_read_by_every_field(monkeypatch) -> None:
    asked: list[Fields] = []

    def read(location: str, fields: Fields, **_: Any) -> Examples:
        asked.append(fields)
        return Examples(texts=["a"], labels=None, origin="o", lines=np.ones(1, np.int64))

    monkeypatch.setattr(reading, "read_labelled", read)
    monkeypatch.setattr(reading, "keep_labelled", read)
    assert names_of(Fields) == set(ELSE)
    Reading(**ELSE).read("a")
    Reading(**ELSE).read("a", cache=Cache(None))
    assert asked == [Fields(**ELSE)] * 2
    Reading(**ELSE).read("a", labelled=False)
    assert asked[2] == Fields(**ELSE | {"label_column": None})
    # Of what a test set says, the rest is as for all.
    assert Reading(**ELSE).changed_by(ReadingChanges(joiner="+")) == Reading(**ELSE | {"joiner": "+"})
    assert Reading(joiner="+").changed_by(ReadingChanges(**ELSE)) == Reading(**ELSE)


def test_a_test_set_takes_back_what_is_unusual_of_all_files() -> None:
    all_files = ELSE | {"label_names": ("x", "y"), "first_label": 3}
    assert names_of(ReadingChanges) == names_of(Reading) == set(all_files)
    assert Reading(**all_files).changed_by(ReadingChanges()) == Reading(**all_files)
    for name, usual in vars(Reading()).items():
        assert usual != all_files[name]
        changed = Reading(**all_files).changed_by(ReadingChanges(**{name: usual}))
        assert changed == Reading(**all_files | {name: usual}), name


def test_a_command_reads_a_table_by_every_option(monkeypatch) -> None:
    asked: list[Fields] = []
    monkeypatch.setattr(labelled_files, "iterate_labelled", lambda path, fields: asked.append(fields) or iter(()))
    given = {name: value for name, value in ELSE.items() if name in names_of(Classify) - {"text_columns"}}
    assert set(given) == {"columns", "delimiter", "quoting", "encoding", "field_limit"}
    options = Classify(run=Path("r"), input=Path("a.csv"), text_columns=("said",), **given)
    assert not list(iterate_texts(options, joiner=" - ", position=lambda place: None))
    assert asked == [Fields(text_columns=("said",), joiner=" - ", label_column=None, **given)]


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_made_as_a_recipe_says(lowercase: bool, tmp_path: Path, monkeypatch) -> None:
    asked: dict[str, list[Any]] = {}

    def noting(name: str) -> Callable[..., Score]:
        def score(texts: Any, references: Any, **options: Any) -> Score:
            asked[name] = [list(texts), list(references), options]
            return Score(name=name, score=1.0, interval=None, signature="s", details="")

        return score

    for name in ("detokenized_bleu", "tokenized_bleu", "chrf"):
        monkeypatch.setattr(evaluation, name, noting(name))
    monkeypatch.setattr(evaluation, "detokenize_moses", lambda text, *, language: f"{text} in {language}")
    translations, references = [Translation("un known", (), 0.0)], ["un@@ known"]
    resamples, case = {"num_resamples": evaluation.NUM_RESAMPLES}, {"lowercase": lowercase}
    plain = ScoringConfig(lowercase=lowercase, tokenize="char")
    found = plain.all_scores(translations, references, language="de")
    assert [each.name for each in found] == ["detokenized_bleu", "chrf"]
    assert asked["detokenized_bleu"] == [["un known"], ["un@@ known"], {"tokenize": "char"} | case | resamples]
    assert asked["chrf"] == [["un known"], ["un@@ known"], case]
    (tmp_path / "raw").write_text("The raw one.\n")
    words = replace(plain, tokenized=True, raw_reference=str(tmp_path / "raw"))
    found = words.all_scores(translations, references, language="de")
    assert [each.name for each in found] == ["tokenized_bleu", "detokenized_bleu", "chrf"]
    assert asked["tokenized_bleu"] == [["un known"], ["unknown"], case | resamples]
    assert asked["detokenized_bleu"] == [["un known in de"], ["The raw one."], {"tokenize": "char"} | case]
    assert asked["chrf"] == [["un known in de"], ["The raw one."], case]


# Scripts: what `build` makes of a config.


@functools.cache
def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_handed_on", ROOT / "experiments" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIZES: dict[str, Any] = {"width": 8, "feedforward_width": 12, "num_heads": 2}
PRESETS = {"translation": "phrasebook", "classification": "own", "vision": "own", "pretraining": "stdlib-gpt"}
ROWS, LENGTH = 3, 5


def config_of(name: str, **changes: Any) -> Any:
    config = script(name).PRESETS[PRESETS[name]][1]
    sizes: dict[str, Any] = dict(SIZES)
    if name == "translation":
        sizes |= {"source_vocab_size": 20, "target_vocab_size": 20, "num_encoder_layers": 1, "num_decoder_layers": 1}
    elif name == "classification":
        sizes |= {"vocab_size": 20, "num_outputs": 3, "num_layers": 1}
    elif name == "vision":
        sizes |= {"image_height": 4, "image_width": 4, "image_channels": 1, "patch": 2, "num_outputs": 3}
    else:
        sizes |= {"vocab_size": 20}
    return replace(
        config, model=replace(config.model, **sizes, unroll=1, dropout_rate=0.0, attention_dropout_rate=0.0), **changes
    )


def build(name: str, config: Any, **options: Any) -> Learner:
    if name in ("classification", "vision"):
        options |= {"updates": 900} | ({"kind": "single"} if name == "classification" else {})
    return script(name).build(config, config.model, **options)


def batch_of(name: str) -> Mapping[str, jax.ShapeDtypeStruct]:
    whole, rows = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    weights = jax.ShapeDtypeStruct((ROWS,), jnp.float32)
    if name == "translation":
        return dict.fromkeys(("source", "decoder_input", "target"), whole)
    if name == "pretraining":
        return dict.fromkeys(("tokens", "labels", "segments", "positions"), whole)
    inputs = {"tokens": whole, "types": whole}
    if name == "vision":
        inputs = {"pixels": jax.ShapeDtypeStruct((ROWS, 4, 4, 1), jnp.uint8)}
    return {**inputs, "labels": rows, "weights": weights}


def program(name: str, config: Any, *, with_key: bool = False, **options: Any) -> str:
    """Returns the loss as operations, so that what a choice changes is seen without a number being computed."""
    learner = build(name, config, **options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with_keys = (learner.model.shapes, batch_of(name), *([key] if with_key else []))
    traced = jax.make_jaxpr(lambda params, batch, key=None: learner.loss(params, batch, key))(*with_keys)
    return re.sub(r"0x[0-9a-f]+", "", str(traced))


@pytest.mark.parametrize("name", PRESETS)
def test_a_learner_has_the_choices_of_its_config(name: str) -> None:
    config = config_of(name, seeds=3, selection=SelectionConfig(average_of="best"))
    changed = replace(config.optimization, average_decay=0.75, peak=0.03, warmup=7, schedule="cosine")
    batch = replace(config.batch, gradient_sum="compute")
    config = replace(config, optimization=changed, batch=batch, model=replace(config.model, dtype="bfloat16"))
    config = config if name in ("classification", "vision") else replace(config, updates=900)
    learner = build(name, config)
    assert (learner.num_seeds, learner.average_decay, learner.keeps_best) == (3, 0.75, True)
    assert (learner.gradient_sum, learner.dtype) == ("compute", "bfloat16")
    expected = make_schedule(changed, total=900, width=8)
    for step in (0, 3, 7, 400, 899):
        assert float(learner.schedule(step)) == float(expected(step))
    assert learner.updated_by == updated_by(changed, learner.model) != {}
    assert not build(name, replace(config, selection=SelectionConfig(average_of="last"))).keeps_best
    assert build(name, replace(config, seeds=1)).num_seeds == (1 if name in ("classification", "vision") else None)
    # Twice as many rows, or micro-batches, take twice as much.
    one, rows, parts = (learner.flops(shape) for shape in ((1, 4, LENGTH), (1, 8, LENGTH), (2, 4, LENGTH)))
    assert one[0] > 0
    assert rows == parts == (2 * one[0], 2 * one[1])


def with_optimization(config: Any, **changes: Any) -> Any:
    return replace(config, optimization=replace(config.optimization, **changes))


def with_smoothing(config: Any, value: float) -> Any:
    return with_optimization(config, label_smoothing=value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("classification", with_smoothing),
        ("vision", lambda config, value: replace(config, label_smoothing=value)),
        ("pretraining", lambda config, value: replace(config, z_loss=value)),
    ],
)
def test_the_loss_of_a_script_is_that_of_its_config(name: str, change: Callable[[Any, float], Any]) -> None:
    config = config_of(name)
    some, more = (program(name, change(config, value)) for value in (0.2, 0.3))
    assert some != more
    if name == "classification":  # a program is the same each time that it is traced
        weighted = program(name, change(config, 0.2), class_weights=np.array([1.0, 2.0, 3.0], np.float32))
        assert weighted != some == program(name, change(config, 0.2))


@pytest.mark.parametrize("name", ["vision", "pretraining"])
def test_what_is_random_is_so_in_training_alone(name: str) -> None:
    plain = config_of(name)
    plain = replace(plain, augment=AugmentationConfig()) if name == "vision" else plain
    changes = [replace(plain, model=replace(plain.model, dropout_rate=0.5))]
    if name == "vision":
        changes += [replace(plain, augment=AugmentationConfig(**{each: value})) for each, value in AUGMENTED.items()]
        changes.append(replace(changes[0], augment=AugmentationConfig(**AUGMENTED)))
    heard = [program(name, each, with_key=True) for each in (plain, *changes)]
    assert len(set(heard)) == len(heard)
    assert program(name, changes[-1]) == program(name, plain)


AUGMENTED: dict[str, Any] = {"crop": 1, "flip": True, "turn": 5.0, "stretch": 0.1, "erase": 0.5}


def test_all_that_images_are_changed_by_is_tried() -> None:
    assert names_of(AugmentationConfig) == set(AUGMENTED)
