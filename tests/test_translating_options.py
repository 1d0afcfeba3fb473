"""What a translator and `lmx translate` may be asked for beside the best translation."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.cli import main
from lmx.parameters import save_params
from lmx.saved import save_tokenizers
from lmx.search import EARLIER, Search, read_search
from lmx.streams import Share
from lmx.target_scores import ScoredTarget
from lmx.translate_command import Translate, check_together, written
from lmx.translation_batches import Translation
from lmx.translator import Translator
from tests.test_translator import (
    CONFIG,
    MAX_SOURCE_LENGTH,
    SEARCH,
    SOURCE,
    TARGET,
    make_lines,
    make_translator,
    parameters,
)

LINES = make_lines(3, 7, 1, 6)


@pytest.fixture(scope="module")
def translator() -> Translator:
    return make_translator()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    config = {"search": dataclasses.asdict(SEARCH), "max_length": MAX_SOURCE_LENGTH}
    facts = {"family": "seq2seq", "config": config, "model": dataclasses.asdict(CONFIG)}
    (directory / "config.json").write_text(json.dumps(facts))
    save_params(directory / "model.safetensors", parameters())
    save_tokenizers(directory, SOURCE, TARGET)
    return directory


def test_the_best_of_several_translations_is_the_one_there_is_alone(translator):
    best, several = translator.translate(LINES), translator.translate(["", *LINES], n_best=2)
    assert [len(each) for each in several] == [1, 2, 2, 2, 2]
    assert [each[0] for each in several[1:]] == best
    assert all(first.score >= second.score and first.ids != second.ids for first, second in several[1:])


def test_the_score_of_a_translation_is_that_of_the_model(translator):
    best = translator.translate(LINES)
    for one, scored in zip(best, translator.score(LINES, [each.text for each in best]), strict=True):
        assert scored.tokens == one.ids
        assert len(scored.logprobs) == len(one.ids)
        assert scored.logprob / ((5 + len(one.ids)) / 6) ** 0.6 == pytest.approx(one.score, rel=1e-4)


def test_translations_begin_with_their_prefixes(translator):
    prefixes = ["t3 t7", "", "t1", ""]
    free, found = translator.translate(LINES), translator.translate(LINES, prefixes=prefixes)
    assert found[0].text.startswith("t3 t7")
    assert found[2].text.startswith("t1")
    assert [one.ids for one in found[1::2]] == [one.ids for one in free[1::2]]
    scored = translator.score(LINES[:1], [found[0].text])[0]
    assert sum(scored.logprobs[2:]) / ((5 + len(scored.tokens)) / 6) ** 0.6 == pytest.approx(found[0].score, rel=1e-4)


def test_a_forced_first_word_is_no_text(translator):
    forced = make_translator(search=dataclasses.replace(SEARCH, forced_bos="t4", suppress=("t2", 7)))
    for one in forced.translate(LINES):
        assert TARGET.pieces(one.ids)[0] == "t4"
        assert not {*TARGET.encode("t2"), 7} & set(one.ids)
        assert one.text.split() == TARGET.pieces(one.ids[1:-1])
    scored = forced.score(LINES[:1], ["t5"])[0]
    assert TARGET.pieces(scored.tokens) == ["t4", "t5", "</s>"]
    assert scored.logprobs[0] == 0


def test_words_do_not_follow_one_another_and_do_not_begin(translator):
    best = translator.translate(LINES)
    first, second = TARGET.pieces(best[0].ids)[:2]
    begun = dataclasses.replace(SEARCH, begin_suppress=(best[0].ids[0],))
    other = make_translator(search=begun).translate(LINES)
    assert TARGET.pieces(other[0].ids)[0] != first
    assert [one.ids for one, was in zip(other, best, strict=True) if was.ids[0] != best[0].ids[0]] == [
        was.ids for was in best if was.ids[0] != best[0].ids[0]
    ]
    words = f"{first} {best[0].ids[1]}"
    followed = make_translator(search=dataclasses.replace(SEARCH, suppress_sequences=(words, "t4"))).translate(LINES)
    assert not any(f"{first} {second}" in one.text or "t4" in one.text.split() for one in followed)
    assert followed[0].ids != best[0].ids


def test_a_line_is_drawn_alone_as_among_others():
    drawing = make_translator(search=dataclasses.replace(SEARCH, beam_size=1, temperature=4.0, top_k=9, top_p=0.95))
    found = drawing.translate(LINES, n_best=3)
    assert len({one.ids for each in found for one in each}) > 6
    assert all(one.score < 0 for each in found for one in each)
    assert [one.ids for one in drawing.translate(LINES[2:3], n_best=3)[0]] == [one.ids for one in found[2]]
    other = make_translator(search=dataclasses.replace(drawing.search, seed=2))
    assert [one.ids for one in other.translate(LINES)] != [each[0].ids for each in found]


def test_searches_of_earlier_versions_are_read(run, tmp_path):
    saved = json.loads((run / "config.json").read_text())
    for name in EARLIER:
        del saved["config"]["search"][name.removeprefix("search.")]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_search(tmp_path) == SEARCH
    assert {f"search.{field.name}" for field in dataclasses.fields(Search)} >= EARLIER.keys()
    # What is usual today did not change what they found, but for the fewest words.
    did = {name.removeprefix("search."): tuple(value) if value == [] else value for name, value in EARLIER.items()}
    assert Search(**did) == Search(min_length=0)


def test_a_run_that_draws_can_be_searched(tmp_path):
    drawn = {"beam_size": 1, "temperature": 0.5, "top_k": 9, "top_p": 0.9}
    (tmp_path / "config.json").write_text(json.dumps({"family": "seq2seq", "model": {}, "config": {"search": drawn}}))
    assert read_search(tmp_path, temperature=0.0, beam_size=5) == Search()
    assert read_search(tmp_path, temperature=0.25).top_k == 9
    with pytest.raises(ValueError, match="top_k must come with a temperature over 0, got top_k=3"):
        read_search(tmp_path, temperature=0.0, top_k=3)


def test_what_a_run_has_saved_can_be_taken_off(tmp_path, monkeypatch, capsys):
    """By 0 and by empty texts; what is left out stays."""
    held = Search(
        beam_size=2,
        no_repeat=1,
        forced_bos="t4",
        suppress=("t2",),
        begin_suppress=(7,),
        suppress_sequences=("t1 t2",),
    )
    drawn = dataclasses.replace(held, beam_size=1, temperature=0.5, top_k=9)
    asked = []
    monkeypatch.setattr("lmx.translator.Translator.load", lambda run, *, search, **_: asked.append(search) or 1 / 0)
    for saved, flags, expected in (
        (held, [], held),
        (held, ["--no-repeat", "0"], dataclasses.replace(held, no_repeat=None)),
        (held, ["--suppress", "", "--forced-bos", ""], dataclasses.replace(held, suppress=(), forced_bos=None)),
        (
            held,
            ["--suppress-sequences", "", "--begin-suppress", ""],
            dataclasses.replace(held, suppress_sequences=(), begin_suppress=()),
        ),
        (drawn, ["--top-k", "0"], dataclasses.replace(drawn, top_k=None)),
        (drawn, ["--temperature", "0", "--beam-size", "2"], held),
    ):
        fields = {"family": "seq2seq", "model": {}, "config": {"search": dataclasses.asdict(saved)}}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(ZeroDivisionError):
            lmx(monkeypatch, capsys, tmp_path, *flags)
        assert asked.pop() == expected


def lmx(monkeypatch, capsys, *arguments: object) -> tuple[str, str]:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings
    monkeypatch.setattr("sys.argv", ["lmx", "translate", *map(str, arguments)])
    with contextlib.suppress(SystemExit):
        main()
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_the_command_line_writes_several_translations_and_scores_given_ones(run, tmp_path, monkeypatch, capsys):
    given, told = tmp_path / "lines.txt", tmp_path / "told.txt"
    given.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    out, _ = lmx(monkeypatch, capsys, run, "--input", given, "--n-best", 2, "--with-scores")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "2", "2", "3", "3", "4", "4"]
    told.write_text("".join(f"{row[2]}\n" for row in rows[::2]), encoding="utf-8")
    out, _ = lmx(monkeypatch, capsys, run, "--input", given, "--score-targets", told)
    scores = [float(line) for line in out.splitlines()]
    lengths = [len(row[2].split()) + 1 for row in rows[::2]]
    expected = [float(row[1]) * ((5 + length) / 6) ** 0.6 for row, length in zip(rows[::2], lengths, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    told.write_text("t3\nt4\n\nt5\n", encoding="utf-8")
    out, _ = lmx(monkeypatch, capsys, run, "--input", given, "--prefix", told)
    assert [line.split()[0] for line in out.splitlines()][::3] == ["t3", "t5"]


class Fake(Translator):
    """A translator that says the same of every line."""

    def __init__(self):
        pass

    def translate(self, lines: list[str], *, n_best: int, **settings: object) -> list[list[Translation]]:
        return [[Translation(f"{line} {place}", (), -0.123456) for place in range(n_best)] for line in lines]

    def score(self, sources: list[str], targets: list[str]) -> list[ScoredTarget]:
        return [ScoredTarget(each, (3, 2), (-1.0, -0.23456789)) for each in targets]


def test_lines_have_their_number_and_their_score_to_some_digits():
    block, share = [("a", "b"), ("c", "d")], Share(lambda percent: None, 1)
    options = Translate(run=Path("r"), n_best=2, with_scores=True)
    assert written(Fake(), block, options, share, first=7) == [
        "7\t-0.1235\ta 0",
        "7\t-0.1235\ta 1",
        "8\t-0.1235\tc 0",
        "8\t-0.1235\tc 1",
    ]
    options = Translate(run=Path("r"), score_targets=Path("t"))
    assert written(Fake(), block, options, share, first=7) == ["-1.234568"] * 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--n-best", 3], "n_best must be at most beam_size=2, got n_best=3."),
        (["--suppress", "t99"], "suppress must be pieces of the target vocabulary, got suppress=t99. Nearest: t9."),
        (["--forced-bos", "deu_Latn"], "forced_bos must be pieces of the target vocabulary, got forced_bos=deu_Latn."),
        (["--forced-bos", 99], "forced_bos must be ids from 0 to 18, got forced_bos=99."),
        (
            ["--forced-bos", "</s>"],
            "forced_bos must be a word that may come, got </s>, which is padding, start or end.",
        ),
        (["--early-stopping", "maybe"], "early_stopping must be true or false or never, got early_stopping=maybe."),
        (["--suppress-sequences", "t1 t99"], "suppress_sequences must be pieces of the target vocabulary, got "),
        (["--suppress-sequences", " "], "suppress_sequences must hold words, got suppress_sequences=' '."),
        (["--begin-suppress", 99], "begin_suppress must be ids from 0 to 18, got begin_suppress=99."),
        (["--max-ratio", 0, "--max-extra", 0], "one of them over 0, got max_ratio=0 and max_extra=0."),
        (["--source-language", "de"], "source_language must be left out: the model has no codes of languages, got "),
        (["--target-language", "de", "--forced-bos", 5], "forced_bos must be left out with target_language=de, "),
        (["--top-k", 3], "top_k must come with a temperature over 0, got top_k=3."),
        (["--prefix", "two"], "must have a line for each line of the input, got 2 lines in "),
        (["--score-targets", "five"], "got more than 4 lines in "),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(run, tmp_path, monkeypatch, capsys, options, expected):
    given = tmp_path / "lines.txt"
    given.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    for name, number in (("two", 2), ("five", 5)):
        (tmp_path / name).write_text("t1\n" * number, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    out, err = lmx(monkeypatch, capsys, run, "--input", given, *options)
    assert not out
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("seed", 0), ("n_best", 0), ("renormalised", False)])
def test_a_zero_beside_given_translations_is_refused_too(name, value):
    options = Translate(run=Path("r"), input=Path("a"), score_targets=Path("b"), **{name: value})
    said = f"{name} must be left out where given targets are scored, got {name}={value}."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check_together(options)


@pytest.mark.parametrize("early_stopping", ["true", "never"])
def test_long_translations_are_searched_for_under_the_usual_bound_first(early_stopping, monkeypatch):
    lines = make_lines(3, 7, 1, 6, 2, 5, 4, 7)
    search = dataclasses.replace(SEARCH, max_ratio=0.0, max_extra=18, early_stopping=early_stopping)
    params = jax.tree.map(lambda leaf: leaf, parameters())
    params["decoder"]["final_norm"]["bias"] += 0.4 * params["target_embedding"]["table"][TARGET.eos_id]
    monkeypatch.setattr(Search, "settles", lambda self: False)
    whole = make_translator(search=search).with_params(params).translate(lines, n_best=2)
    monkeypatch.undo()
    monkeypatch.setattr(Search, "max_ratio", 0.0)
    monkeypatch.setattr(Search, "max_extra", 6)  # the usual bound
    translator, asked = make_translator(search=search).with_params(params), []
    searched = translator._search

    def seen(params, *, source, max_length, **more):
        asked.append((max_length, int((source != CONFIG.pad_id).any(-1).sum())))
        return searched(params, source=source, max_length=max_length, **more)

    translator._search = seen
    found = translator.translate(lines, n_best=2)
    assert [[one.ids for one in each] for each in found] == [[one.ids for one in each] for each in whole]
    scores = [[[one.score for one in each] for each in several] for several in (found, whole)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    counts = {length: sum(rows for each, rows in asked if each == length) for length, _ in asked}
    assert counts == ({6: 8, 18: 7} if early_stopping == "true" else {18: 8})
