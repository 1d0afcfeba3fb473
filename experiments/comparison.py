"""Translation by a decoder alone and by an encoder-decoder: the same pairs, vocabulary, updates and scores.

    python experiments/comparison.py                                # on the embedded phrasebook
    python experiments/comparison.py --train train.tsv --validation dev.tsv --test test.tsv

The decoder reads source, tab and target as one row, and only the target counts for its loss (`pretraining.py
--objective pairs`); the encoder-decoder is that of `translation.py`. Each training is a run in a folder of its own: a
finished one is not repeated, and one that was stopped continues. Both translate greedily, and are scored together.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from lmx.console import console
from lmx.data.embedded import phrasebook
from lmx.data.parallel import Pairs, read_pairs
from lmx.data.phrasebook.writer import Split
from lmx.definition import define
from lmx.errors import InputError
from lmx.generator import Generator
from lmx.models.decoder import Decoder
from lmx.models.seq2seq import Seq2Seq
from lmx.nn.embedding import count_parameters
from lmx.process import one_line_errors
from lmx.sampling import Sampling
from lmx.saved import write_json, write_lines
from lmx.scoring.translation import chrf, compare_translations, detokenized_bleu
from lmx.text import Tokenizer
from lmx.trainings import run_once
from lmx.translator import Search, Translator

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Config:
    """The pairs, and the sizes of both models.

    Attributes:
        run: directory of both runs and of what comes of them.
        train, validation, test: files of tab-separated pairs; without them, the embedded phrasebook.
        vocab_size: pieces of the vocabulary, which both models share; the decoder's run learns it.
        width: of both models.
        layers: of the encoder and of the decoder of the encoder-decoder.
        decoder_layers: of the decoder alone; its blocks have no attention to a memory, so that more of them cost as
            much.
        updates: of both trainings.
        tokens: of an update, both sides together, with padding.
        max_tokens: of a source, and of a target.
        peak: highest learning rate.
        seed: of both trainings.
    """

    run: Path = Path("runs/comparison")
    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    vocab_size: int = 2000
    width: int = 128
    layers: int = 2
    decoder_layers: int = 5
    updates: int = 1600
    tokens: int = 4096
    max_tokens: int = 64
    peak: float = 4e-3
    seed: int = 1

    def check(self) -> None:
        """Checks that the sets are given all or not at all.

        Raises:
            InputError: they are not.
        """
        given = [name for name in ("train", "validation", "test") if getattr(self, name) is not None]
        if len(given) not in (0, 3):
            raise InputError(f"train, validation and test must be given together, got {' and '.join(given)} alone.")


class System(NamedTuple):
    """A finished model: what it is, its size and its translations of the test set."""

    name: str
    parameters: int
    translations: list[str]


# ---- the pairs -------------------------------------------------------------------------------------------------------


def files_of(config: Config) -> dict[str, Path]:
    """Returns the files of the sets; those of the phrasebook are written once."""
    given: dict[Split, Path | None] = {"train": config.train, "validation": config.validation, "test": config.test}
    files: dict[str, Path] = {name: path for name, path in given.items() if path is not None}
    if files:
        return files
    for name in given:
        files[name] = config.run / f"{name}.tsv"
        if not files[name].is_file():
            files[name].parent.mkdir(parents=True, exist_ok=True)
            write_lines(files[name], [f"{each.source}\t{each.target}" for each in phrasebook(name)])
    return files


# ---- two trainings ---------------------------------------------------------------------------------------------------


def train(script: str, directory: Path, options: str, files: Sequence[str]) -> None:
    """Trains one model with a script of this folder, unless that has been done.

    Raises:
        SystemExit: the training was stopped or failed, with its exit code.
    """
    run_once(HERE / script, [*options.split(), *files], run=directory)


def train_both(config: Config, files: dict[str, Path]) -> tuple[Path, Path]:
    """Returns the runs of the decoder and of the encoder-decoder."""
    decoder, pair = config.run / "decoder", config.run / "encoder-decoder"
    usual = f"--updates {config.updates} --validate-every {max(1, config.updates // 4)} --seed {config.seed}"
    shape = f"--model.width {config.width} --model.feedforward-width {4 * config.width} --model.num-heads 4"
    schedule = f"--optimization.schedule cosine --optimization.peak {config.peak} --optimization.clip-norm 1.0"
    train(
        "pretraining.py",
        decoder,
        f"stdlib-gpt --objective pairs --packing documents --context {2 * config.max_tokens} --metric loss "
        f"--tokens-per-batch {config.tokens} --vocab-size {config.vocab_size} --model.num-layers "
        f"{config.decoder_layers} --model.unroll {config.decoder_layers} --prompts {usual} {shape} {schedule}",
        [item for name, path in files.items() for item in (f"--{name}", f"lines:{path}")],
    )
    train(
        "translation.py",
        pair,
        f"phrasebook --tokens-per-batch {config.tokens // 2} --max-length {config.max_tokens} "
        f"--search.beam-size 1 --model.num-encoder-layers {config.layers} "
        f"--model.num-decoder-layers {config.layers} --model.unroll {config.layers} {usual} {shape} {schedule}",
        ["--vocabulary", str(decoder / "tokenizer.model")]
        + [item for name, path in files.items() for item in (f"--{name}", str(path))],
    )
    return decoder, pair


# ---- the comparison --------------------------------------------------------------------------------------------------


def cut(texts: Sequence[str], tokenizer: Tokenizer, *, most: int) -> list[str]:
    """Returns texts of which none has more tokens than `most`, with the separator or the end behind it."""
    encoded = [tokenizer.encode(text) for text in texts]
    return [
        text if len(ids) < most else tokenizer.decode(ids[: most - 1]) for text, ids in zip(texts, encoded, strict=True)
    ]


def translate_both(config: Config, runs: tuple[Path, Path], pairs: Pairs) -> list[System]:
    """Returns both systems with their translations, by the likeliest word each time."""
    generator = Generator.load(runs[0], sampling=Sampling(temperature=0.0, max_tokens=config.max_tokens), rows=None)
    sources = cut(pairs.sources, generator.tokenizer, most=config.max_tokens)
    if number := sum(now != before for now, before in zip(sources, pairs.sources, strict=True)):
        console.print(
            f"{number:,} of {len(pairs):,} test sources were longer than {config.max_tokens} tokens and were cut"
        )
    translator = Translator.load(runs[1], search=Search(beam_size=1))
    decoder = define(lambda rngs: Decoder(generator.config, rngs=rngs)).network
    pair = define(lambda rngs: Seq2Seq(translator.config, rngs=rngs)).network
    return [
        System("decoder alone", count_parameters(decoder), [each.text for each in generator.generate(sources)]),
        System("encoder-decoder", count_parameters(pair), [each.text for each in translator.translate(sources)]),
    ]


def main(config: Config) -> None:
    """Trains both, lets both translate the test set, scores them and tests the difference."""
    config.check()
    files = files_of(config)
    runs = train_both(config, files)
    pairs = read_pairs(str(files["test"]), source_language="source", target_language="target", keep_empty=True)
    systems = translate_both(config, runs, pairs)
    told = {}
    for system in systems:
        scores = [detokenized_bleu(system.translations, pairs.targets), chrf(system.translations, pairs.targets)]
        console.print(f"{system.name}: {system.parameters:,} parameters")
        for score in scores:
            console.print(f"  {score}")
        told[system.name] = {"parameters": system.parameters} | {each.name: each.score for each in scores}
        write_lines(config.run / f"{system.name.replace(' ', '-')}.txt", system.translations)
    write_json(config.run / "comparison.json", told)
    console.print("the decoder alone against the encoder-decoder:")
    for comparison in compare_translations(systems[1].translations, systems[0].translations, pairs.targets):
        console.print(f"  {comparison}")


def command_line(arguments: Sequence[str]) -> Config:
    """Returns the config with the overrides of a command line."""
    return tyro.cli(Config, args=list(arguments), prog="comparison.py", description=__doc__)


if __name__ == "__main__":
    with one_line_errors():
        main(command_line(sys.argv[1:]))
