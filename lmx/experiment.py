"""What every experiment script begins and ends with: its command line, the facts of its start, its table of scores.

What is trained, and on what, is the script's. Here is what a reader of the second script need not read again.
"""

import contextlib
import dataclasses
import difflib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax
import numpy as np
import tyro
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int
from rich import box
from rich.console import Console
from rich.table import Table

from lmx.data.cache import Cache, open_cache
from lmx.data.fitting import UPDATES_OF_A_PASS, Sizes, fit_sizes
from lmx.devices import describe_precision
from lmx.hosts import is_writer
from lmx.nn.kernels import choose_kernel
from lmx.nn.layers import count_parameters
from lmx.nn.transformer import TransformerConfig
from lmx.optimization import OptimizerConfig
from lmx.plan import double_fsdp, halve_rows, make_plan
from lmx.plan.command import explain_out_of_memory, plan_of_this_command, split_arguments, use_virtual_devices
from lmx.plan.figures import Job, Proposal
from lmx.plan.tables import render
from lmx.run import Run, console, keep_freed_memory, one_line_errors, progress_bar, stop_on_signals
from lmx.saved import read_fields
from lmx.sharding import MeshConfig, count_devices, named_sharding, resolve_mesh, token_shards, use_mesh
from lmx.text import SentencePieceTokenizer, Tokenizer, VocabularyTooLarge

Config = TypeVar("Config")
Scheduled = TypeVar("Scheduled", bound=OptimizerConfig)


@runtime_checkable
class PlanOf(Protocol):
    """Prints what the training of a preset will need."""

    def __call__(self, preset: str, config: Any, *, device: str, devices: int | None) -> None:
        """Prints it for a device by its name, on so many of them."""
        ...


def run_script(
    read: Callable[[list[str]], tuple[str, Config]], main: Callable[[str, Config], None], plan: PlanOf
) -> None:
    """Runs an experiment as a command: trains, or with `--plan DEVICE` says what training will need.

    Args:
        read: the preset and its config from the arguments, see `read_command_line`.
    """
    keep_freed_memory()
    with one_line_errors(), stop_on_signals():
        device, devices, arguments = split_arguments(sys.argv[1:])
        if device is not None:
            plan(*read(arguments), device=device, devices=devices)
        else:
            with explain_out_of_memory(plan_of_this_command):
                main(*read(arguments))


def read_command_line(
    arguments: list[str], *, presets: Mapping[str, tuple[str, Config]], script: str, about: str | None
) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line.

    Args:
        presets: a line about each, and its config.
        script: the file's name.
        about: printed before the list of presets.

    Raises:
        ValueError: there is no such preset; the message names the nearest.
        SystemExit: help was asked for and is printed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print((about or "").strip())
        print("\npresets:")
        for name, (description, _) in presets.items():
            print(f"  {name:<15} {description}")
        print(f"\nFields of a preset: python experiments/{script} PRESET --help")
        raise SystemExit(0 if arguments else 2)
    preset, *overrides = arguments
    if preset not in presets:
        nearest = difflib.get_close_matches(preset, presets, n=1, cutoff=0)
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset}. Nearest: {nearest[0]}.")
    description, default = presets[preset]
    config = tyro.cli(
        type(default), default=default, args=overrides, prog=f"{script} {preset}", description=description
    )
    return preset, config


def config_as_json(config: Any) -> dict[str, Any]:
    """Returns what makes a run this run; with whom a process trains is no part of it."""
    saved = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    del saved["hosts"]
    return saved


def text_cache(where: str) -> Cache:
    """Returns where a script keeps encoded text, by the name in its config; only host 0 says what becomes of it."""
    shown = console if is_writer() else Console(quiet=True)
    return open_cache(where, report=shown.print, progress=functools.partial(progress_bar, console=shown))


def learn_pieces(
    train: Callable[..., Tokenizer], texts: Callable[[], Iterable[str]], *, vocab_size: int, **options: Any
) -> Tokenizer:
    """Returns a vocabulary of so many pieces, or of as many as the texts fill.

    Args:
        train: `SentencePieceTokenizer.train`, or what takes its place.
        texts: gives them, once more if need be.
        options: of `train`.
    """
    try:
        return train(texts(), vocab_size=vocab_size, **options)
    except VocabularyTooLarge as error:
        return train(texts(), vocab_size=error.most, **options)


def say_fewer_pieces(run: Run, tokenizer: Tokenizer, *, vocab_size: int) -> None:
    """Says where a learned vocabulary is smaller than what was asked for."""
    if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.vocab_size < vocab_size:
        run.console.print(
            f"the vocabulary has {tokenizer.vocab_size:,} pieces and not --vocab-size {vocab_size:,}: the text has "
            "no more"
        )


def fit_warmup(run: Run, options: Scheduled, *, usual: int, updates: int) -> Scheduled:
    """Returns the options with a warm-up that leaves room for what follows; one that was asked for stays.

    Args:
        usual: the preset's warm-up, which nobody has asked for.
        updates: of the whole training.
    """
    if not options.depends_on_end or options.warmup != usual or options.warmup < updates or updates < 1:
        return options
    if updates == 1:
        run.console.print(
            f"the learning rate is --optimization.peak {options.peak:g} without a warm-up: the training has one update"
        )
        return dataclasses.replace(options, schedule="constant", warmup=0)
    warmup = max(1, updates // 10)
    run.console.print(
        f"the warm-up takes {warmup:,} of {updates:,} updates and not --optimization.warmup {usual:,}: the training is "
        "shorter than that"
    )
    return dataclasses.replace(options, warmup=warmup)


def start_facts(model: TransformerConfig, network: nnx.Module, mesh: Mesh) -> dict[str, Any]:
    """Returns what a run says of itself at its start: devices, mesh, precision, attention kernels, parameters."""
    hosts = f", {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}{hosts}",
        "mesh": ", ".join(f"{name}={size}" for name, size in mesh.shape.items()),
        "precision": describe_precision(
            model.dtype,
            platform=jax.default_backend(),
            compute_capability=getattr(jax.devices()[0], "compute_capability", None),
            asked=jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        ),
        **attention_facts(model, network, mesh),
        "parameters": count_parameters(network),
    }


def attention_facts(model: TransformerConfig, network: Any, mesh: Mesh) -> dict[str, str]:
    """Returns which kernels a training's attention takes on a mesh, and why.

    Raises:
        ValueError: the config asks for a kernel that cannot do what the model needs.
    """
    with use_mesh(mesh):
        choices = {
            name: choose_kernel(
                model.kernel,
                sees,
                dtype=model.dtype,
                head_width=model.width // model.num_heads,
                dropout_rate=model.attention_dropout_rate,
            )
            for name, sees in network.attentions().items()
        }

    def told(field: int) -> str:
        """Says what is so for all once, else what is so for each."""
        values = {name: choice[field] for name, choice in choices.items()}
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        return ", ".join(f"{name}: {value}" for name, value in values.items())

    return {"attention_kernel": told(0), "attention_reason": told(1)}


@runtime_checkable
class Batched(Protocol):
    """Of an experiment's config, what its batches are made by, and what a plan may change."""

    @property
    def mesh(self) -> MeshConfig:
        """The devices."""
        ...

    @property
    def tokens_per_batch(self) -> int:
        """Of one micro-batch."""
        ...

    @property
    def tokens_per_device(self) -> int | None:
        """Of one micro-batch on one device, in the place of tokens_per_batch."""
        ...

    @property
    def length_multiple(self) -> int:
        """What padded lengths divide by."""
        ...

    @property
    def accumulation(self) -> int:
        """Micro-batches an update."""
        ...

    @property
    def rows_multiple(self) -> int:
        """What the rows of a batch divide by."""
        ...

    @property
    def num_buckets(self) -> int:
        """Batch shapes."""
        ...


Budgeted = TypeVar("Budgeted", bound=Batched)


def settle_tokens(config: Budgeted, *, run: Path, devices: int) -> Budgeted:
    """Returns the config with the tokens_per_batch that its tokens_per_device, if it has one, means on so many devices.

    A run that was begun keeps what it meant there, whatever devices it is continued on: its batches stay the same.

    Args:
        run: the run's directory, there or not.

    Raises:
        ValueError: tokens_per_device is no number of tokens, or the mesh does not fit the devices.
    """
    if config.tokens_per_device is None:
        return config
    if config.tokens_per_device < 1:
        raise ValueError(f"tokens_per_device must be at least 1, got tokens_per_device={config.tokens_per_device}.")
    tokens = config.tokens_per_device * token_shards(resolve_mesh(config.mesh, devices))
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # what is wrong there, `Run` says
        begun = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
        if begun["tokens_per_device"] == config.tokens_per_device:
            tokens = int(begun["tokens_per_batch"])
    return dataclasses.replace(cast(Any, config), tokens_per_batch=tokens)


def fit_batches(run: Run, config: Batched, *, usual: Batched, lengths: Int[np.ndarray, " rows"]) -> Sizes:
    """Returns sizes of batches that the training rows fill, and says what is less than the config says.

    A run that was begun keeps the sizes that it began with, under "sizes" in its config.json.

    Args:
        usual: the preset, whose sizes nobody has asked for: of them, a pass is to have some updates. Of sizes that
            were asked for, one pass is to fill one update.
        lengths: tokens of each row's longest side.
    """
    names = tuple(field.name for field in dataclasses.fields(Sizes))
    asked = Sizes(**{name: getattr(config, name) for name in names})
    sizes = asked
    if run.begun is None:
        unasked = config.tokens_per_device is None and asked == Sizes(**{name: getattr(usual, name) for name in names})
        sizes = fit_sizes(
            lengths,
            asked,
            rows_multiple=config.rows_multiple,
            length_multiple=config.length_multiple,
            updates_of_a_pass=UPDATES_OF_A_PASS if unasked else 1,
        )
    elif "sizes" in run.begun:
        sizes = read_fields(Sizes, run.begun["sizes"], path=run.directory / "config.json", field="sizes")
    tokens = "tokens_per_batch" if config.tokens_per_device is None else "tokens_per_device"
    said = {
        "tokens_per_batch": (tokens, "most tokens of a batch"),
        "accumulation": ("accumulation", "micro-batches of an update"),
        "num_buckets": ("num_buckets", "batch shapes"),
    }
    for name, (field, what) in said.items():
        if getattr(sizes, name) < getattr(asked, name):
            flag = f"--{field.replace('_', '-')} {getattr(config, field):,}"
            run.console.print(
                f"{what}: {getattr(sizes, name):,} and not {flag}: there are {len(lengths):,} rows to learn from"
            )
    return sizes


def check_lengths(config: Batched, *, max_length: int, sequence: int) -> None:
    """Checks that every padded length will divide over a mesh.

    Args:
        sequence: the mesh's size along that axis.

    Raises:
        ValueError: it will not.
    """
    multiple = config.length_multiple
    if multiple < 1 or multiple % sequence:
        raise ValueError(
            f"length_multiple must be divisible by mesh.sequence={sequence}, got length_multiple={multiple}. It is "
            "part of the batches: set it where a run begins, for the most devices that are ever to share a row."
        )
    if max_length % multiple:
        raise ValueError(
            f"max_length must be divisible by length_multiple={multiple}, got max_length={max_length}; the next that "
            f"is: {-(-max_length // multiple) * multiple}."
        )


def check_shapes(shapes: Sequence[tuple[int, int, int]], mesh: Mesh) -> None:
    """Checks that batches (A, B, L) divide over a mesh.

    Raises:
        ValueError: one does not.
    """
    for _, rows, length in shapes:
        try:
            named_sharding(mesh, ("batch", "length"), (rows, length))
        except ValueError as error:
            raise ValueError(
                f"{error} Rows are a multiple of rows_multiple and lengths of length_multiple; both belong to the "
                "batches and are set where a run begins."
            ) from error


def tokens_on_device(shapes: Sequence[tuple[int, int, int]], mesh: Mesh) -> str:
    """Returns in words how many tokens, padding counted, a device gets of batches of shapes (A, B, L)."""
    tokens = [rows * length // token_shards(mesh.shape) for _, rows, length in shapes]
    micro_batches = shapes[0][0]

    def span(times: int) -> str:
        least, most = min(tokens) * times, max(tokens) * times
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    of_update = f"{span(micro_batches)} an update"
    return of_update if micro_batches == 1 else f"{span(1)} a micro-batch, {of_update}"


def print_plan(
    job_of: Callable[..., Job], about: str, *, device: str, config: Batched, lengths: tuple[int, int]
) -> None:
    """Prints what a training will need, and where it does not fit, which change would make it fit.

    Args:
        job_of: the job, given changes of the model's config by name.
        about: the first line.
        device: by its name.
        config: its mesh has no size left open.
        lengths: of the longest batch and of a usual one.
    """
    number = count_devices(config.mesh)
    use_virtual_devices(2 * number)  # as many again, to see what twice as many would do
    job = job_of()
    tokens = f"--tokens-per-batch {config.tokens_per_batch // 2}"
    of_twice = ""
    if config.tokens_per_device is not None:
        tokens = f"--tokens-per-device {max(config.tokens_per_device // 2, 1)}"
        of_twice = f" {tokens}"  # the same batch on twice the devices
    proposals: list[Proposal] = [
        ("--model.remat dots", lambda: job_of(remat="dots")),
        ("--model.remat full", lambda: job_of(remat="full")),
        (f"--mesh.fsdp {2 * config.mesh.fsdp}{of_twice}, on {2 * number} devices", lambda: double_fsdp(job)),
        (f"{tokens} --accumulation {2 * config.accumulation}", lambda: halve_rows(job)),
        ("--model.dtype bfloat16", lambda: job_of(dtype="bfloat16")),
    ]
    longest, usual = lengths
    print(f"{about}\nBatches: the longest that the config allows, {longest} tokens, and as usual {usual}.\n")
    print(render(make_plan(job, device, changes=proposals)), end="")


def print_scores(run: Run, saved: Mapping[str, Any], *, title: str, baselines_are: str, notes: list[str]) -> None:
    """Prints one table: our scores, the published one, and how each was made; then the main score alone on a line.

    Args:
        saved: what scores.json has: its `rows`, and `baselines` if there are any.
        baselines_are: what the baselines are, in a few words.
        notes: lines between the table and the main score.
    """
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for column in ("score", "", "95% interval", "how it was made"):
        table.add_column(column, justify="right" if column == "" else "left", overflow="fold")
    for row in saved["rows"]:
        interval = "{:.2f} to {:.2f}".format(*row["interval"]) if row["interval"] else ""
        table.add_row(row["name"], f"{row['score']:.2f}", interval, f"{row['made']}\n{row['signature']}")
        if row["published"] is not None:
            table.add_row("  published", f"{row['published']:.2f}", "", row["published_made"])
    for row in saved.get("baselines", []):
        table.add_row(row["name"], f"{row['score']:.2f}", "", baselines_are)
    run.console.print(table)
    for note in notes:
        run.console.print(note)
    main_row = saved["rows"][0]
    run.console.print(f"{main_row['name']} = {main_row['score']:.2f}")
