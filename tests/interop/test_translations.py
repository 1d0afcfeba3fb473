"""Converted encoder-decoders read and translate text as transformers did (make_translation_references.py)."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.cli import main
from lmx.errors import InputError
from lmx.frames import around, ended
from lmx.interop.convert import convert, export, open_model
from lmx.interop.imported import Imported
from lmx.interop.search_settings import search_of, their_search
from lmx.interop.tensors import open_safetensors
from lmx.interop.tokenizers import read_tokenizers
from lmx.languages import AS_SAVED, languages_of, spoken
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import load_tokenizers, read_fields, read_record
from lmx.search import Search, read_search
from lmx.text import Tokenizer
from lmx.translator import Translator
from tests.interop.translators import CASES, EXPECTED, LINES, TOKENIZERS, write_folder_of

SAID: dict[str, list[dict[str, Any]]] = json.loads(EXPECTED.read_text(encoding="utf-8"))
ASKED = [(name, None) for name in CASES] + [(name, each.languages) for name, each in CASES.items() if each.languages]
# Each form of frame and of rule once, and each family; the others are slow.
QUICK = [("marian", None), ("bart", None), ("mbart", ("fr_XX", "it_IT")), ("nllb", None)]
QUICK_NAMES = ("marian", "t5", "bart", "mbart", "nllb")
NAMES = [pytest.param(name, marks=() if name in QUICK_NAMES else pytest.mark.slow) for name in CASES]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of all models by name, made when they are asked for."""

    class Made(dict):
        def __missing__(self, name: str) -> Path:
            where = tmp_path_factory.mktemp(name)
            convert(write_folder_of(name, where / "theirs"), where / "run")
            self[name] = where / "run"
            return self[name]

    return Made()


def said_of(name: str, languages: tuple[str, str] | None) -> dict[str, Any]:
    return SAID[name][0 if languages is None else 1]


@pytest.mark.parametrize(("name", "languages"), ASKED)
def test_rows_of_sources_are_those_of_transformers(name: str, languages: Any):
    folder = TOKENIZERS / CASES[name].tokenizer
    found = read_tokenizers(folder, read_record(folder / "config.json"))
    source, target = (found.get(side) or found["tokenizer"] for side in ("source", "target"))
    source = spoken(source, target, languages=languages or AS_SAVED).source
    behind = len(around(source)[1]) + 1
    for line, row in zip(LINES, said_of(name, languages)["rows"], strict=True):
        assert ended(source.encode(line), source, longest=len(row)) == row
        assert ended(source.encode(line), source, longest=7) == [*row[: 7 - behind], *row[-behind:]]


def changed_tokenizer(name: str, folder: Path, *, config: dict[str, Any], **settings: Any) -> dict[str, Tokenizer]:
    """Reads a tokenizer whose settings are changed; None takes one out."""
    shutil.copytree(TOKENIZERS / name, folder)
    path = folder / "tokenizer_config.json"
    said = {key: value for key, value in (read_record(path) | settings).items() if value is not None}
    path.write_text(json.dumps(said), encoding="utf-8")
    return read_tokenizers(folder, read_record(folder / "config.json") | config)


def test_files_without_a_class_have_that_of_their_type_of_model(tmp_path: Path):
    said = SAID["mbart"][0]["rows"][0]
    found = changed_tokenizer("mbart-pieces", tmp_path / "a", config={}, tokenizer_class=None, src_lang=None)
    assert ended(found["source"].encode(LINES[0]), found["source"], longest=99) == said
    named = {"tokenizer_class": "MBart50Tokenizer"}
    found = changed_tokenizer("mbart-pieces", tmp_path / "b", config=named, tokenizer_class=None)
    assert ended(found["source"].encode(LINES[0]), found["source"], longest=99) == [said[-1], *said[:-1]]
    found = changed_tokenizer("nllb-pieces", tmp_path / "c", config={}, tokenizer_class=None)
    assert ended(found["source"].encode(LINES[0]), found["source"], longest=99) == SAID["nllb"][0]["rows"][0]
    found = changed_tokenizer("m2m100-pieces", tmp_path / "d", config={}, tokenizer_class=None)
    assert ended(found["source"].encode(LINES[0]), found["source"], longest=99) == SAID["m2m100"][0]["rows"][0]


def test_a_tokenizer_json_has_languages(tmp_path: Path):
    codes = {"520": {"content": "en_XX", "special": True}, "521": {"content": "de_DE", "special": True}}
    added = read_record(TOKENIZERS / "bart" / "tokenizer_config.json")["added_tokens_decoder"] | codes
    settings = {"added_tokens_decoder": added, "src_lang": "en_XX", "tgt_lang": "de_DE"}
    config = {"model_type": "mbart", "vocab_size": 522}
    settings["tokenizer_class"] = "MBart50TokenizerFast"
    found = changed_tokenizer("bart", tmp_path / "a", config=config, **settings)
    assert languages_of(found["source"]) == {"en_XX": 520, "de_DE": 521}
    assert found["source"].encode("the")[0] == 520
    turned = spoken(found["source"], found["target"], languages=("de_DE", "en_XX"))
    assert (turned.source.encode("the")[0], turned.target.encode("the")[0], turned.first) == (521, 520, 520)
    assert turned.target.decode([2, *turned.target.encode("the cat"), 2]) == "the cat"
    del settings["tokenizer_class"]  # mBART's, with the code behind
    found = changed_tokenizer("bart", tmp_path / "b", config=config, tokenizer_class=None, **settings)
    assert ended(found["source"].encode("the"), found["source"], longest=9)[-2:] == [2, 520]
    assert found["target"].bos_id == 521


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart", "mbart", "mbart50", "nllb", "m2m100"])
def test_live_tokenizers_frame_a_text_in_the_same_way(name: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    folder = write_folder_of(name, tmp_path / "theirs")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "saved")  # with a tokenizer.json, but for M2M-100
    found = read_tokenizers(tmp_path / "saved", read_record(folder / "config.json"))
    source, target = (found.get(side) or found["tokenizer"] for side in ("source", "target"))
    for languages in filter(None, (AS_SAVED, CASES[name].languages)):
        if languages != AS_SAVED:
            theirs.src_lang = languages[0]
        reader = spoken(source, target, languages=languages).source
        assert [ended(reader.encode(line), reader, longest=99) for line in LINES] == theirs(list(LINES))["input_ids"]


@pytest.mark.parametrize(
    ("name", "languages"),
    [pytest.param(*asked, marks=() if asked in QUICK else pytest.mark.slow) for asked in ASKED],
)
def test_translations_are_those_of_transformers(name: str, languages: Any, runs: dict[str, Path]):
    said = said_of(name, languages)
    translator = Translator.load(runs[name], languages=languages or AS_SAVED)
    assert translator._source_ids(LINES) == said["rows"]
    found = translator.translate(LINES)
    assert [list(one.ids) for one in found] == said["words"]
    assert [one.text for one in found] == said["texts"]
    if said["scores"] is not None:
        np.testing.assert_allclose([one.score for one in found], said["scores"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("name", CASES)
def test_live_translations_agree(name: str, size: str, tmp_path: Path):
    pytest.importorskip("torch")
    if name == "nllb" and pytest.importorskip("transformers").__version__ >= "5":
        pytest.skip("transformers 5 reads the pieces of NLLB as pairs that were merged, which these are not")
    from tests.interop.make_translation_references import all_of

    convert(write_folder_of(name, tmp_path / "theirs", size=size), tmp_path / "run")
    for languages, said in zip((None, CASES[name].languages), all_of(name, size=size), strict=False):
        translator = Translator.load(tmp_path / "run", languages=languages or AS_SAVED)
        assert translator._source_ids(LINES) == said["rows"]
        found = translator.translate(LINES)
        assert [list(one.ids) for one in found] == said["words"]
        assert [one.text for one in found] == said["texts"]
        if said["scores"] is not None:
            difference = np.abs(np.subtract([one.score for one in found], said["scores"])).max()
            print(f"TRANSLATED {name} {size} {languages or ''} scores within {difference:.1e}")
            assert difference < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_comes_out_as_it_came_in(name: str, runs: dict[str, Path], tmp_path: Path):
    folder = runs[name].parent / "theirs"
    export(runs[name], tmp_path / "again", to="huggingface")
    before, after = (open_safetensors(each) for each in (folder, tmp_path / "again"))
    assert before.shapes == after.shapes
    for path in before.shapes:
        skipped = 2 * ("embed_positions" in path)  # rows that nothing reads
        np.testing.assert_array_equal(after.read(path)[skipped:], before.read(path)[skipped:], err_msg=path)
    found, again = open_model(folder), open_model(tmp_path / "again")
    assert again.model == found.model
    assert again.settings == found.settings
    assert again.tokenizers.keys() == found.tokenizers.keys()
    for side, tokenizer in found.tokenizers.items():
        assert [*map(again.tokenizers[side].encode, LINES)] == [*map(tokenizer.encode, LINES)]
        names = ("pad_id", "bos_id", "eos_id", "unk_id", "vocab_size", "special")
        assert [getattr(again.tokenizers[side], each) for each in names] == [getattr(tokenizer, each) for each in names]
    check_settings(
        name, found, *(read_record(each / "generation_config.json") for each in (folder, tmp_path / "again"))
    )


def check_settings(name: str, found: Imported, theirs: dict[str, Any], again: dict[str, Any]) -> None:
    neutral = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
    if "max_new_tokens" in theirs:  # the same, counted with the start token
        theirs["max_length"] = theirs.pop("max_new_tokens") + 1
    if name == "marian-renormalised":
        theirs["bad_words_ids"].remove([0])  # the end, which they leave out
    if name in ("nllb", "m2m100"):  # of the language that the tokenizer names
        code = {"nllb": "deu_Latn", "m2m100": "de"}[name]
        theirs["forced_bos_token_id"] = languages_of(found.tokenizers["target"])[code]
    theirs.setdefault("bos_token_id", theirs["decoder_start_token_id"])  # T5 has none
    assert {**neutral, **again} == {**neutral, **theirs}


def test_what_begins_a_source_goes_to_ctranslate2(runs: dict[str, Path], tmp_path: Path):
    for name, begins, left in (("bart", "<s>", ["forced_bos=0: "]), ("nllb", "eng_Latn", ["forced_bos=443: "])):
        said = export(runs[name], tmp_path / name, to="ctranslate2")
        assert [text[: len(part)] for text, part in zip(said, left, strict=True)] == left
        config = read_record(tmp_path / name / "config.json")
        assert (config["bos_token"], config["add_source_bos"], config["add_source_eos"]) == (begins, True, True)
        assert config["decoder_start_token"] == "</s>"
        source, theirs = open_model(tmp_path / name).tokenizers["source"], Translator.load(runs[name]).source_tokenizer
        for row in said_of(name, None)["rows"]:
            words = " ".join(theirs.pieces(row[1:-1]))
            assert ended(source.encode(words), source, longest=99) == row
    shutil.copytree(runs["nllb"], tmp_path / "run")  # the tokenizer knows the language where the search does not
    saved = read_record(tmp_path / "run" / "config.json")
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved | {"config": {}}))
    said = export(tmp_path / "run", tmp_path / "by-its-tokenizer", to="ctranslate2")
    assert said == ["forced_bos=deu_Latn: begin target_prefix with it"]
    with pytest.raises(InputError, match=r"must have '</s>' or nothing where it ends, got \['</s>', 'en_XX'\]"):
        export(runs["mbart"], tmp_path / "mbart", to="ctranslate2")


@pytest.mark.slow
def test_ctranslate2_says_the_same_of_a_source_that_something_begins(runs: dict[str, Path], tmp_path: Path):
    package = pytest.importorskip("ctranslate2")
    translator = Translator.load(runs["bart"], search=Search())
    export(runs["bart"], tmp_path / "there", to="ctranslate2")
    theirs = package.Translator(str(tmp_path / "there"), compute_type="float32", intra_threads=1)
    pieces = translator.source_tokenizer.pieces
    sources = [pieces(row[1:-1]) for row in translator._source_ids(LINES)]
    found = translator.score(LINES, LINES[::-1])
    said = theirs.score_batch(sources, [pieces(each.tokens[:-1]) for each in found])
    for one, other in zip(found, said, strict=True):
        np.testing.assert_allclose(one.logprobs, other.log_probs, atol=1e-4)


def test_marian_translates_into_one_of_its_languages(runs: dict[str, Path]):
    translator = Translator.load(runs["marian"], languages=(None, "deu"))
    tokenizer = Translator.load(runs["marian"]).source_tokenizer
    assert translator._source_ids(["the cat"]) == [[*tokenizer.encode(">>deu<< the cat"), tokenizer.eos_id]]


def test_an_empty_line_has_an_empty_translation_whatever_surrounds_it(runs: dict[str, Path]):
    for name in ("bart", "mbart", "nllb"):
        assert [one.text for one in Translator.load(runs[name]).translate(["", ""])] == ["", ""]


def test_given_targets_have_their_language_once(runs: dict[str, Path]):
    for name, first in (("nllb", 443), ("mbart50", 403), ("bart", 0)):
        translator = Translator.load(runs[name])
        alone, none = translator._asked(LINES[:2], ["die Katze", ""], draws=1)
        words = translator.target_tokenizer.encode("die Katze")
        assert alone.target == [first, *words[len(translator.target_tokenizer.special.before) :]]
        assert none.target == [first]
        assert alone.target.count(first) == 1


def lmx(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> tuple[str, str]:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings
    monkeypatch.setattr("sys.argv", ["lmx", *map(str, arguments)])
    with contextlib.suppress(SystemExit):
        main()
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_a_training_that_begins_with_a_model_of_several_languages_translates_into_its_own(runs: dict[str, Path]):
    for name, first in (("nllb", (443,)), ("mbart50", (403,)), ("mbart", ()), ("bart", ())):
        assert Translator.load(runs[name], search=Search())._first == first
        saved, tokenizers = read_record(runs[name] / "config.json"), load_tokenizers(runs[name])
        model = read_fields(Seq2SeqConfig, saved["model"], path=runs[name], field="model")
        said = their_search({}, model, tokenizers[1], path=runs[name]).fields
        assert said.get("forced_bos_token_id") == (first[0] if first else None)


def test_the_command_line_takes_languages(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    given = tmp_path / "lines.txt"
    given.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    asked = ("translate", runs["mbart"], "--input", given, "--target-language")
    out, _ = lmx(monkeypatch, capsys, *asked, "it_IT", "--source-language", "fr_XX")
    assert out.splitlines() == said_of("mbart", ("fr_XX", "it_IT"))["texts"]
    out, err = lmx(monkeypatch, capsys, *asked, "it_It")
    assert not out
    assert err.startswith("error: target_language must be one of ar_AR, cs_CZ, de_DE, en_XX, ")
    assert err.endswith("got target_language=it_It. Nearest: it_IT.\n")
    _, err = lmx(monkeypatch, capsys, "translate", runs["marian"], "--source-language", "deu")
    assert err.startswith("error: source_language must be left out where only targets have codes, got ")
    _, err = lmx(monkeypatch, capsys, "translate", runs["bart"], "--target-language", "de")
    assert err.startswith("error: target_language must be left out: the model has no codes of languages, got ")


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    folder = write_folder_of("bart", tmp_path / "theirs")
    path = folder / "generation_config.json"
    more = {"num_beam_groups": 2, "diversity_penalty": 0.5, "do_sample": True, "suppress_tokens": [1, 520]}
    path.write_text(json.dumps(read_record(path) | more), encoding="utf-8")
    _, err = lmx(monkeypatch, capsys, "convert", folder, tmp_path / "run")
    said = err.splitlines()[-1]
    assert said.startswith("  settings left out: ")
    for text in ("num_beam_groups=2", "diversity_penalty=0.5", "do_sample=true with num_beams=4", "[520]: the model"):
        assert text in said
    saved = read_record(tmp_path / "run" / "config.json")
    saved["config"]["search"] |= {"length_penalty": "gnmt", "max_ratio": 1.5, "forced_eos": "scored"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    _, err = lmx(monkeypatch, capsys, "export", tmp_path / "run", tmp_path / "out")
    said = err.splitlines()[-1]
    for text in ("length_penalty=gnmt", "max_ratio=1.5", "forced_eos=scored"):
        assert text in said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"num_beams": "four"}, "must have a number in num_beams, got 'four'."),
        ({"num_beams": 0}, "must have at least 1 in num_beams, got 0."),
        ({"early_stopping": "maybe"}, "must have true, false or 'never' in early_stopping, got 'maybe'."),
        ({"bad_words_ids": [3]}, "must have a list of ids in bad_words_ids, got 3."),
        ({"suppress_tokens": [-1]}, r"must have a list of ids in suppress_tokens, got \[-1\]."),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be over 0 and finite"),
    ],
)
def test_a_setting_that_is_none_is_named(said: dict[str, Any], message: str, tmp_path: Path):
    folder = write_folder_of("bart", tmp_path / "theirs")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(read_record(path) | said), encoding="utf-8")
    with pytest.raises(InputError, match=rf"generation_config\.json.* {message}"):
        open_model(folder)


def test_older_folders_have_the_settings_in_their_config(tmp_path: Path):
    folder = write_folder_of("bart", tmp_path / "theirs")
    said = read_record(folder / "generation_config.json")
    expected = open_model(folder).settings
    (folder / "config.json").write_text(json.dumps(read_record(folder / "config.json") | said), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    assert open_model(folder).settings == expected


def test_settings_that_say_nothing_search_as_generate_does(runs: dict[str, Path]):
    model = open_model(runs["bart"].parent / "theirs").model
    told = search_of({"eos_token_id": 2}, model, None, where="here")
    assert not told.left
    search = Search(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.fields.items()})
    changed = {"beam_size": 1, "min_length": 0, "early_stopping": "false", "forced_eos": "none"}
    assert search == dataclasses.replace(Search(), **changed)
    drawn = search_of({"eos_token_id": [2, 9], "do_sample": True, "top_p": 0.9}, model, None, where="here")
    assert (drawn.fields["temperature"], drawn.fields["top_k"], drawn.fields["top_p"]) == (1.0, 50, 0.9)
    assert drawn.left == ["eos_token_id=[2, 9]: only 2 ends a translation"]
    assert read_search(runs["bart"]).forced_bos == 0
