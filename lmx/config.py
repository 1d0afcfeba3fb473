"""Choices of every experiment: where and how it runs, its batches, and which parameters it keeps.

An experiment's config holds these records `INLINE`: on the command line and in config.json their fields have no prefix.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import numpy as np
import tyro

from lmx.compilation import CompileCache
from lmx.data.batches import SeedBatches, TokenBatches, evaluation_batches
from lmx.data.buckets import Encoded, choose_buckets, rows_of_bucket
from lmx.data.fitting import Sizes
from lmx.data.windows import Packing
from lmx.errors import InputError
from lmx.hosts import HostsConfig
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, resolve_mesh
from lmx.sharding.placement import token_shards
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import GradientSum

Tokens = TypeVar("Tokens", bound="TokensConfig")

INLINE = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how an experiment runs. None of it changes what is learned; all of it may change when a run continues.

    Attributes:
        run: directory of the run; all hosts must see it.
        mesh: how the devices share the work.
        hosts: several processes that train together, see docs/many-machines.md.
        compile_cache: where to keep compiled programs: in a folder that all runs of this user share, or with the run;
            off keeps none.
        text_cache: where to keep encoded training text for the next start and for other processes: "user" (the user's
            cache folder), a folder, or "off".
        deterministic: makes a GPU give the same bits every time, somewhat slower; a CPU does so anyway.
        save_every: updates between checkpoints, in addition to those after each validation.
        keep_every: never delete checkpoints of multiples of this, in addition to the two newest and those to average.
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
            ValueError: one of them is too small, or `profile` is no range.
        """
        if self.log_every < 1:
            raise ValueError(f"log_every must be at least 1, got log_every={self.log_every}.")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(
                f"save_every must be at least 1, or None to save at validations, got save_every={self.save_every}."
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every must be at least 1, or None to keep none, got keep_every={self.keep_every}.")
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
class TokensConfig:
    """How many tokens an update takes, and how devices add up their gradients.

    Attributes:
        tokens_per_batch: most tokens of one micro-batch of a seed: rows times the longest side's padded length.
        tokens_per_device: most tokens of one micro-batch on one device, instead of tokens_per_batch. A run fixes its
            tokens_per_batch on its first devices and keeps it on others.
        accumulation: micro-batches per update.
        gradient_sum: the type in which devices add up gradients; "compute" is the model's, and of bfloat16 sends half.
    """

    tokens_per_batch: int = 4096
    tokens_per_device: int | None = None
    accumulation: int = 1
    gradient_sum: GradientSum = "float32"

    def settled(self: Tokens, mesh: MeshConfig, *, run: Path, devices: int, rules: Rules = DEFAULT_RULES) -> Tokens:
        """Returns the record with tokens_per_batch computed from tokens_per_device, if that is given.

        A run that has begun keeps its tokens_per_batch on whatever devices it continues: its batches stay the same.

        Args:
            run: the run's directory, which need not exist.
            devices: the number of devices of a new run.

        Raises:
            ValueError: tokens_per_device is no number of tokens, or the mesh does not fit the devices.
        """
        if self.tokens_per_device is None:
            return self
        if self.tokens_per_device < 1:
            raise ValueError(f"tokens_per_device must be at least 1, got tokens_per_device={self.tokens_per_device}.")
        tokens = self.tokens_per_device * token_shards(resolve_mesh(mesh, devices), rules=rules)
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # what is wrong there, `Run` says
            begun = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
            if begun["tokens_per_device"] == self.tokens_per_device:
                tokens = int(begun["tokens_per_batch"])
        return dataclasses.replace(self, tokens_per_batch=tokens)


@dataclass(frozen=True, kw_only=True)
class BatchConfig(TokensConfig):
    """How batches are formed.

    Attributes:
        rows_multiple: the number of rows is a multiple of this; the mesh's data x fsdp must divide it.
        length_multiple: padded lengths and max_length are multiples of this; the mesh's sequence must divide it.
        num_buckets: number of batch shapes, each compiled once.
    """

    rows_multiple: int = 8
    length_multiple: int = 1
    num_buckets: int = 8

    @property
    def sizes(self) -> Sizes:
        """The sizes that a small data set may be unable to fill."""
        return Sizes(
            tokens_per_batch=self.tokens_per_batch, accumulation=self.accumulation, num_buckets=self.num_buckets
        )

    def batches(self, encoded: Encoded, *, seeds: Sequence[int], stacked: bool = False) -> TokenBatches | SeedBatches:
        """Returns the batches of one seed, or of several that train together.

        Args:
            stacked: the arrays of a single seed have the axis of seeds too.
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
        """Returns how many updates a number of epochs has.

        Raises:
            InputError: it has none.
        """
        updates = batches.first_batch(epochs)
        if updates == 0:
            raise InputError(
                f"epochs must be enough for an update, got epochs={epochs} of {len(batches.encoded):,} rows, and an "
                f"update has at least rows_multiple={self.rows_multiple}. Raise --epochs."
            )
        return updates

    def once(self, encoded: Encoded, layout: Layout, *, buckets: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches [B, L] that hold every row once; of each batch, this host gets its own rows.

        Args:
            buckets: those of the training, whose shapes are compiled already; rows may be longer than all of them.
        """
        longest = int(encoded.lengths.max())
        if longest > buckets[-1]:
            buckets = (*buckets, -(-longest // self.length_multiple) * self.length_multiple)
        return evaluation_batches(
            encoded,
            buckets=buckets,
            tokens_per_batch=max(self.tokens_per_batch, self.rows_multiple * buckets[-1]),
            rows_multiple=self.rows_multiple,
            fill_multiple=layout.row_shards,
            rows=layout.rows_of_host,
        )

    def shape(self, length: int) -> tuple[int, int, int]:
        """Returns the shape (A, B, L) of a batch of this length, for plans."""
        budget = {"tokens_per_batch": self.tokens_per_batch, "rows_multiple": self.rows_multiple}
        return self.accumulation, max(rows_of_bucket(length, **budget), self.rows_multiple), length

    def check_lengths(self, *, max_length: int, sequence: int) -> None:
        """Checks that every padded length divides over a mesh.

        Args:
            sequence: the mesh's size along that axis: parts that a row is split into.

        Raises:
            ValueError: some length does not.
        """
        multiple = self.length_multiple
        if multiple < 1 or multiple % sequence:
            raise ValueError(
                f"length_multiple must be divisible by mesh.sequence={sequence}, got length_multiple={multiple}. It is "
                "part of the batches: set it when a run begins, for the most devices that will ever share a row."
            )
        if max_length % multiple:
            raise ValueError(
                f"max_length must be divisible by length_multiple={multiple}, got max_length={max_length}; the next "
                f"that is: {-(-max_length // multiple) * multiple}."
            )


@dataclass(frozen=True, kw_only=True)
class RowsConfig(TokensConfig):
    """Rows of one length from a stream of text.

    Attributes:
        context: tokens of a row; the mesh's sequence must divide it.
        packing: "stream" cuts rows out of all text, one document after another; "documents" packs whole documents into
            rows, and none sees another.
        stride: tokens between the beginnings of rows of held-out text, which then overlap: a token counts in the first
            row that holds it, so that behind the first row at least context - stride tokens stand before it. None takes
            rows side by side. For a stream that a decoder predicts (packing stream, objective causal).
    """

    context: int = 256
    packing: Packing = "stream"
    stride: int | None = None

    @property
    def rows(self) -> int:
        """Rows of a micro-batch.

        Raises:
            InputError: the tokens are fewer than a row has, or it has none.
        """
        if self.context < 1:
            raise InputError(f"context must be at least 1, got context={self.context}.")
        if self.context > self.tokens_per_batch:
            raise InputError(
                f"tokens_per_batch must be at least a row of context={self.context} tokens, got "
                f"tokens_per_batch={self.tokens_per_batch}."
            )
        return self.tokens_per_batch // self.context

    def check_stride(self, *, objective: str) -> None:
        """Checks that held-out rows can overlap as they are asked to.

        Args:
            objective: the name of what the model predicts.

        Raises:
            InputError: they cannot.
        """
        if self.stride is None:
            return
        if not 1 <= self.stride <= self.context:
            raise InputError(f"stride must be from 1 to context={self.context}, got stride={self.stride}.")
        for name, value, wanted in (("packing", self.packing, "stream"), ("objective", objective, "causal")):
            if value != wanted:
                raise InputError(f"{name} must be {wanted} where a stride is given, got {name}={value}.")

    def check_lengths(self, *, max_length: int, sequence: int) -> None:
        """Checks that rows will divide over a mesh.

        Args:
            max_length: of a row.
            sequence: the mesh's size along that axis: parts that a row is split into.

        Raises:
            InputError: they will not.
        """
        if max_length % sequence:
            raise InputError(f"context must be divisible by mesh.sequence={sequence}, got context={max_length}.")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """When to validate, when to stop early, and which parameters to keep.

    Attributes:
        validate_every: updates between validations; 0 validates after each epoch.
        patience: a seed ends after this many validations in a row without a better one; None trains to the end.
        average: number of checkpoints whose mean becomes the model; 1 keeps the parameters of one step.
        average_of: which checkpoints: the last ones, or those with the best validation. With several seeds and an
            average of 1, each seed keeps its own best step; more than 1 are the best by the mean of the seeds.
    """

    validate_every: int = 0
    patience: int | None = None
    average: int = 1
    average_of: Literal["last", "best"] = "last"

    @property
    def keeps_best(self) -> bool:
        """Whether the training keeps each seed's best parameters so far beside the newest."""
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
        if self.validate_every < 0:
            raise ValueError(
                f"validate_every must be at least 0 (after each epoch), got validate_every={self.validate_every}."
            )


@dataclass(frozen=True)
class Published:
    """A published score to compare with.

    Attributes:
        published: the score.
        published_made: how it was obtained.
    """

    published: float | None = None
    published_made: str = ""


def rules_of(config: Any) -> Rules:
    """Returns what a mesh's axes split in an experiment: the `rules` of its config, if it has a table of its own."""
    return getattr(config, "rules", DEFAULT_RULES)


def config_as_json(config: Any) -> dict[str, Any]:
    """Returns what identifies a run: its config, `INLINE` records without a prefix, and without its hosts."""
    saved = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in inline_fields(config):
        saved |= saved.pop(name)
    saved.pop("hosts", None)
    return saved


def inline_fields(config: Any) -> list[str]:
    """Returns the names of a config's fields that are `INLINE` records."""
    hints: Mapping[str, Any] = get_type_hints(type(config), include_extras=True)
    return [name for name, hint in hints.items() if any(mark is INLINE for mark in getattr(hint, "__metadata__", ()))]
