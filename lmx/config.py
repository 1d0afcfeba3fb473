"""Choices that every experiment has: where and how it runs, its batches, its vocabulary, what is kept, and of whom.

An experiment's config holds these records `INLINE`: on the command line and in config.json their fields have no prefix.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import tyro
from jax.sharding import Mesh

from lmx.compilation import CompileCache
from lmx.data.batches import SeedBatches, TokenBatches, evaluation_batches
from lmx.data.buckets import Encoded, choose_buckets, rows_of_bucket
from lmx.data.fitting import Sizes
from lmx.errors import InputError
from lmx.hosts import HostsConfig
from lmx.sharding import GradientSum, MeshConfig, batch_shards, resolve_mesh, rows_on, token_shards

INLINE = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how an experiment runs; none of it changes what is learned, and all of it may change on continuing.

    Attributes:
        run: directory of the run, which all hosts see.
        mesh: how the devices share the work.
        hosts: several processes that train together, see docs/many-machines.md.
        compile_cache: where compiled programs are kept: in a folder that all runs of this user share, or with the run;
            off keeps none.
        text_cache: where encoded training text is kept for the next start and for other processes: "user" (the user's
            cache folder), a folder, or "off".
        deterministic: the same bits from the same run on a GPU, somewhat slower; a CPU gives them anyway.
        save_every: updates between checkpoints, beside those after each validation.
        keep_every: checkpoints of multiples of this stay for good, beside the two newest and those to average.
        log_every: updates between lines of metrics.
        profile: steps to write a profile of, as FROM:TO.
    """

    run: Path = Path("runs/run")
    mesh: MeshConfig = field(default_factory=MeshConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    compile_cache: CompileCache = "user"
    text_cache: str = "user"
    deterministic: bool = False
    save_every: int | None = None
    keep_every: int | None = None
    log_every: int = 50
    profile: str | None = None

    def check(self) -> None:
        """Checks the numbers of steps.

        Raises:
            ValueError: one of them is none.
        """
        if self.log_every < 1:
            raise ValueError(f"log_every must be at least 1, got log_every={self.log_every}.")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(
                f"save_every must be at least 1, or None to save at validations, got save_every={self.save_every}."
            )
        self.steps_to_profile()

    def steps_to_profile(self) -> tuple[int, int] | None:
        """Returns (FROM, TO) of `profile`: the steps after FROM up to TO.

        Raises:
            ValueError: it is not such a range.
        """
        if self.profile is None:
            return None
        first, colon, last = self.profile.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise ValueError(f"profile must be FROM:TO, two steps with FROM below TO, got profile={self.profile!r}.")
        return int(first), int(last)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What batches are made by.

    Attributes:
        tokens_per_batch: most tokens of one micro-batch of a seed: rows times the longest side's padded length.
        tokens_per_device: most tokens of one micro-batch on one device; takes the place of tokens_per_batch, which a
            run keeps as it was on its first devices.
        rows_multiple: what the rows of a batch divide by, and the mesh's data x fsdp must divide.
        length_multiple: what padded lengths and max_length divide by, and the mesh's sequence must divide.
        accumulation: micro-batches an update.
        num_buckets: batch shapes, each compiled once.
        gradient_sum: the type in which devices add up gradients; "compute" is the model's, and of bfloat16 sends half.
    """

    tokens_per_batch: int = 4096
    tokens_per_device: int | None = None
    rows_multiple: int = 8
    length_multiple: int = 1
    accumulation: int = 1
    num_buckets: int = 8
    gradient_sum: GradientSum = "float32"

    @property
    def sizes(self) -> Sizes:
        """What few rows may not be able to fill."""
        return Sizes(
            tokens_per_batch=self.tokens_per_batch, accumulation=self.accumulation, num_buckets=self.num_buckets
        )

    def batches(self, encoded: Encoded, *, seeds: Sequence[int], stacked: bool = False) -> TokenBatches | SeedBatches:
        """Returns the batches of one seed, or of several that train together.

        Args:
            stacked: one seed's arrays have the axis of seeds too.
        """
        settings: dict[str, Any] = {
            "buckets": choose_buckets(encoded.lengths, num_buckets=self.num_buckets, multiple_of=self.length_multiple),
            "tokens_per_batch": self.tokens_per_batch,
            "accumulation": self.accumulation,
            "rows_multiple": self.rows_multiple,
        }
        if len(seeds) == 1 and not stacked:
            return TokenBatches(encoded, seed=seeds[0], **settings)
        return SeedBatches(encoded, seeds=seeds, **settings)

    def updates_of(self, batches: TokenBatches | SeedBatches, *, epochs: int) -> int:
        """Returns how many updates some epochs have.

        Raises:
            InputError: not one.
        """
        updates = batches.first_batch(epochs)
        if updates == 0:
            raise InputError(
                f"epochs must be enough for an update, got epochs={epochs} of {len(batches.encoded):,} rows, and an "
                f"update has at least rows_multiple={self.rows_multiple}. Raise --epochs."
            )
        return updates

    def once(self, encoded: Encoded, mesh: Mesh, *, buckets: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches [B, L] that hold every row once, of each the rows that this host has.

        Args:
            buckets: of the training, whose shapes are compiled already; other rows may be longer than all of it.
        """
        longest = int(encoded.lengths.max())
        if longest > buckets[-1]:
            buckets = (*buckets, -(-longest // self.length_multiple) * self.length_multiple)
        return evaluation_batches(
            encoded,
            buckets=buckets,
            tokens_per_batch=max(self.tokens_per_batch, self.rows_multiple * buckets[-1]),
            rows_multiple=self.rows_multiple,
            fill_multiple=batch_shards(mesh),
            rows=lambda number: rows_on(mesh, number),
        )

    def shape(self, length: int) -> tuple[int, int, int]:
        """Returns the shape (A, B, L) of a batch of this length, for plans."""
        budget = {"tokens_per_batch": self.tokens_per_batch, "rows_multiple": self.rows_multiple}
        return self.accumulation, max(rows_of_bucket(length, **budget), self.rows_multiple), length

    def check_lengths(self, *, max_length: int, sequence: int) -> None:
        """Checks that every padded length will divide over a mesh.

        Args:
            sequence: the mesh's size along that axis.

        Raises:
            ValueError: it will not.
        """
        multiple = self.length_multiple
        if multiple < 1 or multiple % sequence:
            raise ValueError(
                f"length_multiple must be divisible by mesh.sequence={sequence}, got length_multiple={multiple}. It is "
                "part of the batches: set it where a run begins, for the most devices that are ever to share a row."
            )
        if max_length % multiple:
            raise ValueError(
                f"max_length must be divisible by length_multiple={multiple}, got max_length={max_length}; the next "
                f"that is: {-(-max_length // multiple) * multiple}."
            )

    def settled(self, mesh: MeshConfig, *, run: Path, devices: int) -> "BatchConfig":
        """Returns the record with the tokens_per_batch that tokens_per_device, if given, means on so many devices.

        A run that was begun keeps what it meant there, whatever devices it is continued on: its batches stay the same.

        Args:
            run: the run's directory, there or not.

        Raises:
            ValueError: tokens_per_device is no number of tokens, or the mesh does not fit the devices.
        """
        if self.tokens_per_device is None:
            return self
        if self.tokens_per_device < 1:
            raise ValueError(f"tokens_per_device must be at least 1, got tokens_per_device={self.tokens_per_device}.")
        tokens = self.tokens_per_device * token_shards(resolve_mesh(mesh, devices))
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # what is wrong there, `Run` says
            begun = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
            if begun["tokens_per_device"] == self.tokens_per_device:
                tokens = int(begun["tokens_per_batch"])
        return dataclasses.replace(self, tokens_per_batch=tokens)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """When a training is validated, when it ends early, and which parameters are kept.

    Attributes:
        validate_every: updates between validations; 0 validates after each epoch.
        patience: validations in a row without a better one, after which a seed has ended; None waits for the end.
        average: checkpoints whose mean is kept as the parameters; 1 keeps those of one step.
        average_of: whether these are the last ones or those with the best validation; of several seeds, 1 of the best
            is each seed's own, and more are the best by their mean.
    """

    validate_every: int = 0
    patience: int | None = None
    average: int = 1
    average_of: Literal["last", "best"] = "last"

    @property
    def keeps_best(self) -> bool:
        """Whether each seed's best parameters so far are kept beside the newest."""
        return self.average_of == "best" and self.average == 1

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: one is too small.
        """
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or None to train to the end, got patience={self.patience}.")
        if self.average < 1:
            raise ValueError(f"average must be at least 1, got average={self.average}.")


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which pieces text is split into.

    Attributes:
        vocabulary: a trained tokenizer's file; None makes one of the training text.
        vocab_size: pieces that SentencePiece learns.
        max_texts: texts that it learns them from, drawn at random; None takes all, slow above a few million.
        character_coverage: share of the text's characters that get a piece, the rarest are unknown; 1.0 suits clean
            text in alphabets, 0.9995 crawled text and scripts of thousands of characters.
    """

    vocabulary: Path | None = None
    vocab_size: int = 8000
    max_texts: int | None = 2_000_000
    character_coverage: float = 1.0

    def learned(self) -> dict[str, Any]:
        """Returns how SentencePiece learns."""
        return {
            "vocab_size": self.vocab_size,
            "max_texts": self.max_texts,
            "character_coverage": self.character_coverage,
        }


@dataclass(frozen=True, kw_only=True)
class LabelledVocabularyConfig(VocabularyConfig):
    """Which pieces texts with labels are split into.

    Attributes:
        tokenizer: what is made: SentencePiece learned from the training texts, bytes, or the words of tokenised text.
        min_count: a word that is rarer in training is an unknown one.
        lowercase: SentencePiece folds case, so that a word is the same at the beginning of a sentence.
    """

    tokenizer: Literal["sentencepiece", "bytes", "words"] = "sentencepiece"
    min_count: int = 2
    lowercase: bool = False

    def options(self) -> dict[str, Any]:
        """Returns what else the tokenizer is learned by."""
        return {"words": {"min_count": self.min_count}, "bytes": {}}.get(
            self.tokenizer, {"folding": "case" if self.lowercase else "compatibility"}
        )


@dataclass(frozen=True)
class Published:
    """A published score to compare with.

    Attributes:
        published: the score.
        published_made: how it was made.
    """

    published: float | None = None
    published_made: str = ""


def config_as_json(config: Any) -> dict[str, Any]:
    """Returns what makes a run this run, `INLINE` records without a prefix; with whom a process trains is no part."""
    saved = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in inline_fields(config):
        saved |= saved.pop(name)
    saved.pop("hosts", None)
    return saved


def inline_fields(config: Any) -> list[str]:
    """Returns the names of a config's fields that are `INLINE` records."""
    hints: Mapping[str, Any] = get_type_hints(type(config), include_extras=True)
    return [name for name, hint in hints.items() if any(mark is INLINE for mark in getattr(hint, "__metadata__", ()))]
