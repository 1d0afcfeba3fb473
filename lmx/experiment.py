"""The beginning and the end of every experiment: its command line, its run, the facts of its start, its plan.

The script decides what is trained on what, and has the loop. This module holds what a reader of a second script need
not read again.
"""

import contextlib
import dataclasses
import difflib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import jax
import tyro
from jax.sharding import Mesh
from rich.console import Console

from lmx.config import Published, RunConfig, config_as_json, rules_of
from lmx.console import console, progress_bar
from lmx.data.cache import Cache, open_cache
from lmx.data.corpus import AnyFiles
from lmx.data.encoded import keep_tokenizer
from lmx.data.reading import changes_as_saved_now
from lmx.data.windows import Windows
from lmx.data.windows import facts as facts_of_rows
from lmx.devices import describe_precision
from lmx.differences import SAME
from lmx.errors import InputError
from lmx.hosts import agreement, is_writer, start, wait
from lmx.kernel_facts import attention_facts, told_of_rows
from lmx.learner import Placed
from lmx.lora import LoraConfig
from lmx.nn.config import TransformerConfig
from lmx.nn.embedding import count_parameters
from lmx.pieces import VocabularyConfig
from lmx.plan.command import explain_out_of_memory, plan_of_this_command, split_arguments
from lmx.process import keep_freed_memory, make_deterministic, one_line_errors, stop_on_signals
from lmx.report import write_report
from lmx.run import Run
from lmx.saved import check_vocabulary
from lmx.sharding.mesh import MeshConfig, count_devices, resolve_mesh
from lmx.sharding.placement import shards, token_shards
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from lmx.training_text import VocabularyTooLarge
from lmx.versions import versions

Config = TypeVar("Config")


# ---- the command line ------------------------------------------------------------------------------------------------


@runtime_checkable
class PlanOf(Protocol):
    """Prints what the training of a preset will need."""

    def __call__(self, preset: str, config: Any, *, device: str) -> None:
        """Prints it for a device by its name; the config is settled for the devices."""
        ...


def run_script(
    read: Callable[[list[str]], tuple[str, Config]], main: Callable[[str, Config], None], plan: PlanOf
) -> None:
    """Runs an experiment as a command: trains, or with `--plan DEVICE` prints what training will need.

    Args:
        read: returns the preset and its config from the arguments, see `read_command_line`.
    """
    keep_freed_memory()
    with one_line_errors(), stop_on_signals():
        device, devices, arguments = split_arguments(sys.argv[1:])
        preset, chosen = read(arguments)
        config: Any = chosen
        getattr(config, "check", lambda: None)()
        if device is not None:
            mesh = resolve_mesh(config.run.mesh, devices)
            config = settle(dataclasses.replace(config, run=dataclasses.replace(config.run, mesh=mesh)))
            _check_lengths(config, mesh)
            plan(preset, config, device=device)
            return
        with explain_out_of_memory(plan_of_this_command):
            if config.run.deterministic:
                make_deterministic()
            start(config.run.hosts)
            main(preset, settle(config))


def settle(config: Config) -> Config:
    """Returns an experiment's config with the sizes it begins with and the tokens_per_batch it means on its devices.

    The number of devices is that of the mesh, or, where the mesh leaves a size open, that of the machine.

    Raises:
        FileNotFoundError: the run to begin with is not there.
        ValueError: that run does not serve, tokens_per_device is no number of tokens, or the mesh does not fit the
            devices.
    """
    settled: Any = config
    model = settled.start.sizes(settled.model, run=settled.run.run, longest=settled.max_length)
    settled = config = dataclasses.replace(settled, model=model)
    if settled.batch.tokens_per_device is None:
        return config
    mesh: MeshConfig = settled.run.mesh
    number = jax.device_count() if -1 in vars(mesh).values() else count_devices(mesh)
    batch = settled.batch.settled(mesh, run=settled.run.run, devices=number, rules=rules_of(config))
    return dataclasses.replace(settled, batch=batch)


def _check_lengths(config: Any, mesh: MeshConfig) -> None:
    sequence = shards(mesh, "length", rules=rules_of(config))
    config.batch.check_lengths(max_length=config.max_length, sequence=sequence)


def read_command_line(
    arguments: list[str], *, presets: Mapping[str, tuple[str, Config]], script: str, about: str | None
) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line.

    Args:
        presets: a line about each, and its config.
        script: the file's name.
        about: text to print before the list of presets.

    Raises:
        ValueError: there is no such preset; the message names the nearest.
        SystemExit: the user asked for help, which is printed.
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


# ---- a run -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def begin(
    experiment: str, preset: str, config: Any, *, family: str, ends_with: str | None = None, **facts: Any
) -> Iterator[Run]:
    """Opens the part of an experiment that checks everything, before anything is written.

    An error on one host stops all hosts, before hosts that disagree wait for each other.

    Args:
        config: config of the experiment, with the records of `lmx.config`.
        family: family of the model, which decides who can load it, see `lmx.saved.read_config`.
        ends_with: the field for the length of the training; None if there is none.
        facts: more facts for config.json.

    Raises:
        ValueError: something does not fit, or the directory is a run of something else.
    """
    options: RunConfig = config.run
    options.check()
    config.selection.check()
    for name in ("seeds", "updates", "epochs"):
        if (number := getattr(config, name, 1)) < 1:
            raise InputError(f"{name} must be at least 1, got {name}={number}.")
    if not 0 <= config.seed <= 2**32 - config.seeds:
        raise InputError(f"seed must be from 0 to 2^32 - {config.seeds}, got seed={config.seed}.")
    told = {"experiment": experiment, "preset": preset, "family": family, "config": config_as_json(config), **facts}
    records = (RunConfig, Published)
    free = (*(each.name for record in records for each in dataclasses.fields(record)), *config.free)
    if ends_with is not None and not config.optimization.depends_on_end:
        free += (ends_with,)
    if family == "folds":  # each fold says whether its own training may go on for longer
        free += ("updates", "epochs")
    with agreement() as agreed:
        agreed |= told | {"versions": versions(machine=False), "device": jax.local_devices()[0].device_kind}
        open_ = -1 in vars(options.mesh).values()
        _check_lengths(config, resolve_mesh(options.mesh, jax.device_count()) if open_ else options.mesh)
        kept = options.run if ends_with is not None else options.run / "fold-1"
        if hasattr(config, "pieces"):  # images have none
            if config.pieces.vocabulary is not None and config.start.init_from is not None:
                raise InputError(
                    f"vocabulary must not be given with init_from, whose run has one, got {config.pieces.vocabulary}. "
                    "Say --vocabulary None where a preset names it."
                )
            free += ("vocabulary",) if check_vocabulary(config.pieces.vocabulary, kept) else ()
        run = Run(
            options.run, told, free=free, absent=functools.partial(done_before, own=config.absent), options=options
        )
        yield run
        agreed |= run.made_of
        if ends_with is not None:
            run.settle(length=ends_with)
            agreed |= {"whether training is over": run.serves}


def done_before(saved: Mapping[str, Any], *, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that the config of a run of an earlier version lacks, with the values that keep its behaviour.

    Args:
        own: those of the experiment's own fields.
    """
    changes = changes_as_saved_now(saved["test_reading"]) if "test_reading" in saved else {}
    return {
        "max_texts": 2_000_000,  # the vocabulary is there: these two have no part any more
        "character_coverage": 1.0,
        "tokens_per_device": None,
        "length_multiple": saved["mesh"]["sequence"],
        "gradient_sum": "float32" if saved["model"]["dtype"] == "float32" else "compute",
        "seeds": 1,
        "average": 1,
        "optimization.average_decay": None,
        "optimization.optimizer": "adam",
        "optimization.freeze": [],
        "optimization.layer_decay": 1.0,
        "init_from": None,
        "lora": dataclasses.asdict(LoraConfig()),
        "optimization.final_share": 0.0,
        "optimization.decay_share": 0.2,
        "model.head_width": None,
        "model.qk_norm": False,
        "model.attention_scale": None,
        "model.score_cap": None,
        "model.window": None,
        "model.norm_epsilon": None,
        "model.scaled_output": False,
        "model.embedding_norm": False,  # of an encoder-decoder; encoders have always said it
        "model.output_bias": False,
        "model.qkv_bias": False,
        "model.first_position": 0,
        "model.rotary_scaling": [],
        **own,
        **{f"test_reading.{name}": value for name, value in changes.items() if value == SAME},
    }


def finish(run: Run) -> None:
    """Writes the report, says where the time went, and waits until all hosts are here."""
    if run.writes:
        with run.only_reporting("the report is"):
            run.console.print(f"report: {write_report(run.directory)}")
        if run.account is not None:
            run.console.print(run.account.end())
    wait("the end of the run")


def text_cache(where: str) -> Cache:
    """Returns the cache for encoded text that a config names; only host 0 reports on it."""
    shown = console if is_writer() else Console(quiet=True)
    return open_cache(where, report=shown.print, progress=functools.partial(progress_bar, console=shown))


def learn_tokenizer(
    config: VocabularyConfig,
    kind: Literal["sentencepiece", "bytes", "words", "symbols"],
    texts: Callable[[], Iterable[str]],
    *,
    cache: Cache,
    facts: Callable[[], dict[str, Any]],
    about: str,
    **options: Any,
) -> Tokenizer:
    """Returns the tokenizer that a config names, or learns one, once, in one of the processes that ask.

    The vocabulary has the requested number of pieces, or as many as the texts can fill.

    Args:
        texts: returns the texts to learn from, and may be called again.
        facts: identify these texts.
        about: where the texts come from.
        options: for `train` of SentencePiece or `from_texts` for words and symbols.
    """
    if config.vocabulary is not None:
        return load_tokenizer(config.vocabulary)
    if kind == "bytes":
        return ByteTokenizer()
    if kind in ("words", "symbols"):
        made: Any = PretokenizedTokenizer if kind == "words" else SymbolTokenizer
        listed = facts() | {"kind": kind} | options
        return keep_tokenizer(cache, listed, lambda: made.from_texts(texts(), **options), about=about)
    settings = config.learned() | options

    def learn() -> Tokenizer:
        try:
            return SentencePieceTokenizer.train(texts(), **settings)
        except VocabularyTooLarge as error:
            return SentencePieceTokenizer.train(texts(), **{**settings, "vocab_size": error.most})

    return keep_tokenizer(cache, facts() | {"kind": kind} | settings, learn, about=about)


def tokenizer_of_texts(run: Run, config: Any) -> tuple[Callable[[AnyFiles], Tokenizer], Cache]:
    """Returns what gives a run its tokenizer for running text, and where its tokens are kept.

    It is the run's own, or that of the run it begins with, or is learned from the lines of the training text.

    Args:
        config: of the experiment, its `pieces` a `TextVocabularyConfig`.
    """
    cache, pieces = text_cache(config.run.text_cache), config.pieces

    def tokenizer_for(train: AnyFiles) -> Tokenizer:
        def lines() -> Iterator[str]:
            return (line for text in train.texts() for line in text.splitlines(keepends=True))

        about: dict[str, Any] = {"facts": lambda: train.facts(cache), "about": train.origin, **pieces.options()}
        known = config.start.tokenizer(run.directory)
        return known or learn_tokenizer(pieces, pieces.kind, lines, cache=cache, **about)

    return tokenizer_for, cache


def say_fewer_pieces(run: Run, config: Any, *tokenizers: Tokenizer) -> None:
    """Says where a learned vocabulary is smaller than what an experiment's config asks for."""
    pieces: VocabularyConfig = config.pieces
    is_learned = pieces.vocabulary is None and config.start.init_from is None
    for tokenizer in dict.fromkeys(tokenizers) if is_learned else ():
        if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.vocab_size < pieces.vocab_size:
            run.console.print(
                f"the vocabulary has {tokenizer.vocab_size:,} pieces and not --vocab-size {pieces.vocab_size:,}: the "
                "text has no more"
            )


def start_facts(model: TransformerConfig, placed: Placed, batches: Any, *, reason: str | None = None) -> dict[str, Any]:
    """Returns the facts that a run prints at its start: devices, mesh, precision, kernels, parameters, batches.

    Args:
        batches: see `lmx.data.batches.TokenBatches`.
        reason: why the attention kernel is not the requested one, see `training_kernel`.

    Raises:
        ValueError: the config asks for an attention kernel that cannot do what the model needs.
    """
    network, mesh = placed.learner.model.network, placed.mesh
    hosts = f", {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    kernel = attention_facts(model, network, mesh, rules=placed.rules, given=told_of_rows(batches))
    groups = placed.learner.updated_by or {}
    if reason is not None and "asked for" in kernel["attention_reason"]:
        kernel["attention_reason"] = reason
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}{hosts}",
        "mesh": ", ".join(f"{name}={size}" for name, size in mesh.shape.items()),
        "precision": describe_precision(
            model.dtype,
            platform=jax.default_backend(),
            compute_capability=getattr(jax.devices()[0], "compute_capability", None),
            asked=jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        ),
        **kernel,
        "parameters": count_parameters(network),
        **{f"updated_by_{name}" if name != "frozen" else name: which for name, which in groups.items()},
        "batch_shapes": [list(shape) for shape in batches.shapes],
        "tokens_per_device": tokens_on_device(batches.shapes, mesh, rules=placed.rules),
        **({"padding_share": batches.padding_share} if hasattr(batches, "padding_share") else {}),
        **({"padding_optimum": batches.optimum} if hasattr(batches, "optimum") else {}),
        "updates_per_epoch": batches.batches_per_epoch,
        **(facts_of_rows(batches) if isinstance(batches, Windows) else {}),
    }


def tokens_on_device(shapes: Sequence[tuple[int, int, int]], mesh: Mesh, *, rules: Rules = DEFAULT_RULES) -> str:
    """Returns in words how many tokens, padding counted, a device gets of batches of shapes (A, B, L)."""
    tokens = [rows * length // token_shards(mesh.shape, rules=rules) for _, rows, length in shapes]
    micro_batches = shapes[0][0]

    def span(times: int) -> str:
        least, most = min(tokens) * times, max(tokens) * times
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    of_update = f"{span(micro_batches)} an update"
    return of_update if micro_batches == 1 else f"{span(1)} a micro-batch, {of_update}"
