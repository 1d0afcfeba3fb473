"""The plan of an experiment: what its training will need, printed before it starts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmx.config import rules_of
from lmx.learner import Learner
from lmx.plan import double_fsdp, halve_rows, make_plan
from lmx.plan.command import use_virtual_devices
from lmx.plan.figures import Job, Proposal
from lmx.plan.tables import render
from lmx.saved import find_tokenizers
from lmx.sharding.mesh import count_devices
from lmx.text import ByteTokenizer, load_tokenizer


def planned_sizes(config: Any, *fields: str, shared: bool = False) -> tuple[dict[str, int], str]:
    """Returns the vocabulary's size as far as it is known without reading text, and its source, for plans.

    Args:
        config: config of the experiment.
        fields: of the model's config, one for each vocabulary it can have; where a run has fewer, they share the first.
        shared: whether all have one vocabulary, so that one size says the others.
    """
    given: dict[str, int] = {name: getattr(config.model, name) for name in fields if getattr(config.model, name)}
    what = "a vocabulary of" if len(given) == 1 else "vocabularies of"
    said = f"{what} {' and '.join(f'{size:,}' for size in given.values())} as the config says"
    if len(given) == len(fields):
        return given, said
    if given and shared:
        return dict.fromkeys(fields, max(given.values())), said
    found, origin = _sizes_of_vocabularies(config, fields)
    return {**found, **given}, f"{said}; for the other, {origin}" if given else origin


def _sizes_of_vocabularies(config: Any, fields: Sequence[str]) -> tuple[dict[str, int], str]:
    directory, pieces = config.run.run, config.pieces
    files = list(find_tokenizers(directory).values()) if directory.is_dir() else []
    if files:
        sizes = [load_tokenizer(path).vocab_size for path in sorted(files)] * len(fields)
        return dict(zip(fields, sizes, strict=False)), f"the vocabulary of {directory}, {sizes[0]:,}"
    size = pieces.vocab_size
    flags = [f"model.{name}".replace("_", "-") for name in fields if not getattr(config.model, name)]
    asked = " and ".join(f"--{flag}" for flag in flags)
    origin = f"a vocabulary of {size:,} is assumed ({asked})"
    if pieces.vocabulary is not None:
        size = load_tokenizer(pieces.vocabulary).vocab_size
        origin = f"the vocabulary of {pieces.vocabulary.name}, {size:,}"
    elif getattr(pieces, "tokenizer", "") == "bytes":
        size, origin = ByteTokenizer().vocab_size, "bytes"
    return dict.fromkeys(fields, size), origin


def print_plan(
    learner_of: Callable[..., Learner],
    about: str,
    shapes: Callable[[int], Mapping[str, tuple[int, ...]]],
    *,
    device: str,
    config: Any,
    usual: int | None = None,
) -> None:
    """Prints what a training will need, and, if it does not fit, which change would make it fit.

    Args:
        learner_of: the learner of one seed, given changes of the model's config by name.
        about: the first line.
        shapes: of a batch whose rows have a length.
        device: by its name.
        config: of the experiment, see `settle`.
        usual: tokens of a usual row; None for a quarter of the longest.
    """
    batch, mesh = config.batch, config.run.mesh
    longest, shorter = config.max_length, usual or max(config.max_length // 4, 1)
    number = count_devices(mesh)
    use_virtual_devices(2 * number)  # as many again, to see what twice as many would do

    def job_of(**changes: Any) -> Job:
        learner = learner_of(**changes)
        return Job(
            build=learner.model.build,
            loss=learner.loss,
            optimizer=learner.optimizer,
            mesh=mesh,
            batch=shapes(longest),
            typical=None if shorter == longest else shapes(shorter),
            dtype=learner.dtype,
            average=learner.average_decay is not None,
            best=learner.keeps_best,
            gradient_sum=learner.gradient_sum,
            rules=rules_of(config),
        )

    job = job_of()
    tokens = f"--tokens-per-batch {batch.tokens_per_batch // 2}"
    of_twice = ""
    if batch.tokens_per_device is not None:
        tokens = f"--tokens-per-device {max(batch.tokens_per_device // 2, 1)}"
        of_twice = f" {tokens}"  # the same batch on twice the devices
    proposals: list[Proposal] = [
        ("--model.remat dots", lambda: job_of(remat="dots")),
        ("--model.remat full", lambda: job_of(remat="full")),
        (f"--mesh.fsdp {2 * mesh.fsdp}{of_twice}, on {2 * number} devices", lambda: double_fsdp(job)),
        (f"{tokens} --accumulation {2 * batch.accumulation}", lambda: halve_rows(job)),
        ("--model.dtype bfloat16", lambda: job_of(dtype="bfloat16")),
    ]
    if config.seeds > 1:  # they share the mesh
        about += f" Of one seed; {config.seeds} need {config.seeds} times as much."
    lengths = f"the longest that the config allows, {longest} tokens, and as usual {shorter}"
    print(f"{about}\nBatches: {lengths if shorter != longest else f'{longest} tokens a row'}.\n")
    print(render(make_plan(job, device, changes=proposals)), end="")
