"""The test of a finished translator: translations, their scores, baselines, samples and attention maps.

Which BLEU a recipe is judged by, `ScoringConfig` says; the counting is `lmx.scoring.translation`'s.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lmx.config import Published
from lmx.console import progress_bar
from lmx.data.embedded import CONSTRUCTIONS, phrasebook
from lmx.data.files import read_lines
from lmx.data.parallel import Pairs, joined
from lmx.errors import InputError
from lmx.evaluation.folds import each_fold
from lmx.evaluation.tables import print_record
from lmx.lines import undo_bpe
from lmx.run import Run
from lmx.saved import write_json, write_jsonl, write_lines
from lmx.scoring.baselines import dictionary_translations, nearest_translations
from lmx.scoring.records import Record, Row, mean_row, scores_of_seeds
from lmx.scoring.tokenization import bleu_by, tokenize_for, warn_of_few_spaces
from lmx.scoring.translation import NUM_RESAMPLES, Score, chrf, detokenized_bleu, sentence_chrf, tokenized_bleu
from lmx.translator import Translation, Translator
from lmx.words import detokenize_moses

EMBEDDED = "phrasebook test"  # the origin of a test set whose sentences say which construction they show


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Which BLEU an experiment is judged by.

    Attributes:
        tokenized: the text is tokenised and BPE'd already; else SentencePiece reads it raw.
        raw_reference: for tokenised text, the raw test reference that detokenised BLEU is scored against.
        lowercase: scores ignore case.
        tokenize: how BLEU splits raw text into words, by sacreBLEU's names; None takes what suits target_language: zh
            for Chinese, ja-mecab and ko-mecab where they are installed, char for these without, 13a for most.
        bleu_every: a validation whose number this divides also translates; 0 never.
        bleu_sentences: sentences that are translated then, the first of the validation set.
    """

    tokenized: bool = False
    raw_reference: str | None = None
    lowercase: bool = False
    tokenize: str | None = None
    bleu_every: int = 1
    bleu_sentences: int = 200

    def translates(self, *, validation: int) -> bool:
        """Returns whether a validation, counted from 1, also translates."""
        return self.bleu_every > 0 and validation % self.bleu_every == 0

    def scheme(self, language: str) -> str:
        """Returns how BLEU splits raw text of a language into words."""
        return self.tokenize or tokenize_for(language)

    def check_sets(self, *, folds: int | None) -> None:
        """Checks what no file is needed for.

        Args:
            folds: their number, if test sets are parts of train: a raw reference is of one that stands in a file.

        Raises:
            InputError: a number is too small, or there is a raw reference that nothing would be scored against.
        """
        for name, least in (("bleu_every", 0), ("bleu_sentences", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} must be at least {least}, got {name}={value}.")
        if folds is not None and self.raw_reference is not None:
            raise InputError(
                f"raw_reference must be None with folds, whose test sets are parts of train, got {self.raw_reference}. "
                "Say --raw-reference None."
            )
        if self.raw_reference is not None and not self.tokenized:
            raise InputError(
                f"raw_reference must be None for plain text, which is its own reference, got {self.raw_reference}. "
                "Say --raw-reference None."
            )

    def check(self, test: Pairs | None, *, language: str) -> None:
        """Checks that a test set, if there is one, can be scored so.

        Raises:
            InputError: the raw reference has not a line for each pair.
            ValueError: BLEU does not split words by that name.
        """
        bleu_by(self.scheme(language))
        if self.tokenized and self.raw_reference is not None and test is not None:
            count = sum(1 for _ in read_lines(self.raw_reference))
            if count != len(test):
                raise InputError(
                    f"raw_reference must have a line for each test pair, got {count:,} lines in {self.raw_reference} "
                    f"and {len(test):,} pairs in {test.origin}."
                )

    def main_score(
        self, translations: Sequence[Translation], references: Sequence[str], *, language: str, resamples: int = 0
    ) -> Score:
        """Returns the BLEU that is judged by: of tokens where the recipe has tokenised text, else of text."""
        hypotheses = [translation.text for translation in translations]
        if self.tokenized:
            references = [undo_bpe(line) for line in references]
            return tokenized_bleu(hypotheses, references, lowercase=self.lowercase, num_resamples=resamples)
        settings: dict[str, Any] = {"lowercase": self.lowercase, "tokenize": self.scheme(language)}
        return detokenized_bleu(hypotheses, references, **settings, num_resamples=resamples)

    def all_scores(
        self, translations: Sequence[Translation], references: Sequence[str], *, language: str
    ) -> list[Score]:
        """Returns the main score and those beside it: chrF, and of tokenised text BLEU of detokenised, if possible."""
        scores = [self.main_score(translations, references, language=language, resamples=NUM_RESAMPLES)]
        texts = [translation.text for translation in translations]
        if self.tokenized:
            references = [undo_bpe(line) for line in references]
            if self.raw_reference is not None and _detokenizes():
                texts = [detokenize_moses(text, language=language) for text in texts]
                references = list(read_lines(self.raw_reference))
                settings: dict[str, Any] = {"lowercase": self.lowercase, "tokenize": self.scheme(language)}
                scores.append(detokenized_bleu(texts, references, **settings))
        scores.append(chrf(texts, references, lowercase=self.lowercase))
        return scores


def _detokenizes() -> bool:
    return importlib.util.find_spec("sacremoses") is not None


def validation_bleu(
    translator: Translator, pairs: Pairs, scoring: ScoringConfig, *, language: str
) -> float | np.ndarray:
    """Returns the main score of the first pairs; of several seeds, of each alone."""
    number = scoring.bleu_sentences
    sources, targets = pairs.sources[:number], pairs.targets[:number]
    scores = [scoring.main_score(one.translate(sources), targets, language=language) for one in translator.alone()]
    return scores[0].score if translator.members is None else np.array([each.score for each in scores])


class Exam(NamedTuple):
    """What a finished translator is tested on, and how.

    Attributes:
        name: of the test set; the rows begin with it.
        made: how the translations come about, for the table.
    """

    name: str
    made: str
    pairs: Pairs
    language: str
    scoring: ScoringConfig
    published: Published


class Translated(NamedTuple):
    """A test set, what became of it, and its scores.

    Attributes:
        together: translations of the one model, or of all seeds together.
        alone: of several seeds, those of each.
    """

    exam: Exam
    together: Sequence[Translation]
    alone: Sequence[Sequence[Translation]]
    record: Record


def examine_translator(run: Run, translator: Translator, exam: Exam, *, seeds: Sequence[int]) -> Translated:
    """Translates the test set, scores it, and writes translations, scores, samples and attention maps.

    With several seeds, each translates alone, for mean and deviation; the files hold the translations of all together.

    Args:
        seeds: whose models translate; one where the parameters have no axis of members.
    """
    pairs, name = exam.pairs, exam.name
    began = time.perf_counter()
    with progress_bar("translating the test set", total=len(pairs), console=run.console) as show:
        translations = translator.translate(pairs.sources, progress=show)
    record = Record(test=name, rows=()).with_others(sentences=len(pairs), seconds=time.perf_counter() - began)
    record = record.with_others(cut=translator.cut, limited=translator.limited, empty=pairs.empty)
    alone = [] if translator.members is None else [one.translate(pairs.sources) for one in translator.alone()]
    rows, tests = _scored(exam, translations, alone)
    record = replace(record, rows=tuple(rows)).compared_with(**vars(exam.published))
    if len(seeds) > 1:
        best = {"best": run.memory.best, "best_step": run.memory.best_step}
        record = replace(record, seeds=scores_of_seeds(seeds, tests, **best) if run.memory.best else ())
    _tell(run, translator, exam)
    texts = [translation.text for translation in translations]
    constructions = None
    if pairs.origin == EMBEDDED:
        constructions = [phrase.construction for phrase in phrasebook("test")]
        record = record.with_others(constructions=_exact_by_construction(texts, pairs, constructions))
        with run.only_reporting("the baselines are"):
            record = replace(record, baselines=_baselines(pairs))
    maps = []
    with run.only_reporting("attention maps are"):
        maps = [
            _attention(translator, source, one) for source, one in zip(pairs.sources[:5], translations[:5], strict=True)
        ]
    if run.writes:
        _write(run, record, texts, exam, constructions)
        write_json(run.directory / "attention.json", maps)
    print_record(
        run,
        record,
        title=f"{name}: {len(pairs):,} sentences",
        baselines_are="a baseline that cannot translate",
        notes=[
            f"  {name:<12} {row['exact']:.1%} of {row['count']} exactly as the reference"
            for name, row in record.others.get("constructions", {}).items()
        ],
    )
    return Translated(exam, translations, alone, record)


def run_folds(run: Run, preset: str, config: Any, train_and_test: Callable[..., Translated | None]) -> Record:
    """Trains and tests a run for each fold, and scores all translations as those of one test set.

    BLEU is a score of a whole corpus. The main score is that of all pairs together, each translated by a model that did
    not see it, with its interval. Beside it stands the mean of the folds' own main scores with their deviation.

    Args:
        config: of the experiment, with `sets`, `scoring`, `search`, `published` and `run`.
        train_and_test: see `lmx.evaluation.folds.each_fold`.
    """
    tested = each_fold(run, preset, config, train_and_test)
    pairs = joined([each.exam.pairs for each in tested], origin=config.sets.train)
    places = np.concatenate([each.exam.pairs.places for each in tested if each.exam.pairs.places is not None])
    order = np.argsort(places, kind="stable")

    def in_order(parts: Sequence[Sequence[Translation]]) -> list[Translation]:
        found = [translation for part in parts for translation in part]
        return [found[index] for index in order]

    endings = {each.exam.made for each in tested}
    made = f"each sentence by a model that did not see it; {endings.pop() if len(endings) == 1 else config.search}"
    name, language = f"{preset} {len(tested)}-fold test", config.sets.target_language
    exam = Exam(name, made, pairs, language, config.scoring, config.published)
    together = in_order([each.together for each in tested])
    rows, _ = _scored(exam, together, [in_order(parts) for parts in zip(*(each.alone for each in tested), strict=True)])
    alone = [each.record.rows[0].score for each in tested]
    signature = exam.scoring.main_score(together, pairs.targets, language=language).signature
    mean = replace(rows[0], name=f"{rows[0].name}, mean of folds", signature=signature)
    rows.insert(1, mean_row(mean, alone, made=rows[0].made, over="folds"))
    record = Record(test=name, rows=tuple(rows)).compared_with(**vars(exam.published))
    record = record.with_others(sentences=len(pairs), folds=alone)
    if run.writes:
        _write(run, record, [translation.text for translation in together], exam, None)
    print_record(run, record, title=f"{name}: {len(pairs):,} sentences", baselines_are="", notes=[])
    return record


def _scored(
    exam: Exam, together: Sequence[Translation], alone: Sequence[Sequence[Translation]]
) -> tuple[list[Row], list[float]]:
    """Returns the rows of a test, the main one first, and of several seeds the main score of each, or else the one."""
    targets, language = exam.pairs.targets, exam.language
    scores = exam.scoring.all_scores(together, targets, language=language)
    prefix, made = exam.name, exam.made
    if alone:
        prefix, made = f"{exam.name}, ensemble,", f"{len(alone)} seeds translate together; {exam.made}"
    rows = [
        Row(name=f"{prefix} {each.name}", score=each.score, interval=each.interval, signature=each.signature, made=made)
        for each in scores
    ]
    if not alone:
        return rows, [scores[0].score]
    of_each = [exam.scoring.main_score(one, targets, language=language) for one in alone]
    tests = [each.score for each in of_each]
    one = replace(rows[0], name=f"{exam.name} {scores[0].name}", signature=of_each[0].signature)
    return [mean_row(one, tests, made=exam.made), *rows], tests


def _write(run: Run, record: Record, texts: Sequence[str], exam: Exam, constructions: Sequence[str] | None) -> None:
    """Writes translations, scores and samples."""
    write_lines(run.directory / "test.hypotheses.txt", texts)
    write_json(run.directory / "scores.json", record.to_json())
    write_jsonl(run.directory / "samples.jsonl", _samples(texts, exam, constructions))


def _tell(run: Run, translator: Translator, exam: Exam) -> None:
    """Says what one should know of translations before their score."""
    pairs, say = exam.pairs, run.console.print
    if pairs.empty:
        say(
            f"{pairs.empty:,} of {len(pairs):,} test pairs have an empty side: an empty source has an empty "
            "translation, and all are scored, as sacreBLEU scores all lines of two files"
        )
    if translator.limited:
        say(f"{translator.limited:,} of {len(pairs):,} translations were ended by the length limit")
    if translator.cut:
        say(
            f"{translator.cut:,} of {len(pairs):,} test sources were longer than {translator.max_source_length} tokens "
            "and were cut"
        )
    scoring = exam.scoring
    if scoring.tokenized and scoring.raw_reference is not None and not _detokenizes():
        say("warning: nothing is scored against raw_reference without sacremoses: pip install 'lmx[moses]'")
    if not scoring.tokenized and (warning := warn_of_few_spaces(pairs.targets, scoring.scheme(exam.language))):
        say(f"warning: {warning}")


def _exact_by_construction(
    texts: Sequence[str], pairs: Pairs, constructions: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Returns the share of translations that are the reference, by what the sentence shows."""
    exact: dict[str, list[bool]] = {name: [] for name in CONSTRUCTIONS}
    for text, reference, name in zip(texts, pairs.targets, constructions, strict=True):
        exact[name].append(text == reference)
    return {name: {"exact": float(np.mean(hits)), "count": len(hits)} for name, hits in exact.items()}


def _baselines(pairs: Pairs) -> dict[str, float]:
    """Returns the BLEU of translating without understanding, so that the main score means something."""
    train = [(phrase.source, phrase.target) for phrase in phrasebook("train")]
    systems = {
        "word-for-word dictionary": dictionary_translations(train, pairs.sources),
        "nearest training sentence": nearest_translations(train, pairs.sources),
    }
    return {name: detokenized_bleu(texts, pairs.targets, num_resamples=0).score for name, texts in systems.items()}


def _samples(texts: Sequence[str], exam: Exam, constructions: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns the records of samples.jsonl."""
    pairs = exam.pairs
    references = [undo_bpe(line) for line in pairs.targets] if exam.scoring.tokenized else pairs.targets
    samples: list[dict[str, Any]] = [
        {"source": source, "reference": reference, "hypothesis": text, "chrf": value}
        for source, reference, text, value in zip(
            pairs.sources, references, texts, sentence_chrf(texts, references), strict=True
        )
    ]
    for index, name in enumerate(constructions or []):
        samples[index]["construction"] = name
    return samples


def _attention(translator: Translator, source: str, translation: Translation) -> dict[str, Any]:
    """Returns one sentence's attention map as attention.json has it."""
    record = translator.attention(source, translation)
    return record | {"weights": np.round(record["weights"].astype(float), 3).tolist()}
