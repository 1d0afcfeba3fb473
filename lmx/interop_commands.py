"""The commands between lmx and others: `lmx convert`, `lmx export`, and `lmx embed`."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lmx.differences import few
from lmx.errors import InputError, naming
from lmx.streams import Written, check_streams, check_written

if TYPE_CHECKING:  # a command loads jax when it runs
    from lmx.interop.imported import Imported


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Makes a run directory of another library's model: a folder, a file, or an id of Hugging Face's hub."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of Hugging Face or CTranslate2, a GGUF file, llama2.c, or an id such as google/flan-t5-small."""
    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Directory to write; it must be new."""
    plan: bool = False
    """Write nothing, and print what each host of a mesh would read and hold of the model (`--init-from`)."""
    hosts: int = 1
    """Number of hosts, for the plan."""
    devices: int = 8
    """Number of devices of each host, for the plan; fsdp splits the model over all of them."""
    pieces: Path | None = None
    """File with the vocabulary of a model of llama2.c."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the model of a finished run as another library reads it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder to write; it must be new."""
    to: Literal["huggingface", "ctranslate2"] = "huggingface"
    """The library that reads it."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Type of the weights; bfloat16 is for Hugging Face alone, int8 for CTranslate2."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Makes a vector of each text with a finished run of an encoder; one line of JSON for each."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    text: tuple[str, ...] = ()
    """One text or several. Default: the lines of the input."""
    input: Path = Path("-")
    """File of texts, one a line; - is standard input."""
    vector: Literal["mean", "first"] | None = None
    """The mean of a text's states, or the state of its first token. Default: as the run says, or the mean."""
    normalised: bool | None = None
    """Give vectors length 1. Default: as the run says, or not."""
    output: Path | None = None
    """File to write; without it, standard output. One that ends in .npy holds an array [texts, width]."""


def convert(options: Convert) -> None:
    """Runs `lmx convert`."""
    from lmx.interop.convert import convert as write
    from lmx.interop.convert import open_model
    from lmx.interop.imported import definition_of
    from lmx.nn.embedding import count_parameters

    if options.plan:
        for line in plan_lines(open_model(options.source, pieces=options.pieces), options):
            print(line)
        return
    for name in ("hosts", "devices"):
        if (value := getattr(options, name)) != getattr(Convert, name):
            raise InputError(f"{name} must come with a plan, got {name}={value}. Say --plan.")
    if options.run is None:
        raise InputError("run must be the directory to write, got none. For a plan alone, say --plan.")
    found = write(options.source, options.run, pieces=options.pieces)
    parameters = count_parameters(definition_of(found.model).network)
    print(f"{options.run}: {found.family}, {parameters:,} parameters of {options.source}", file=sys.stderr)
    if not found.tokenizers:
        print("  it has no tokenizer: commands that read text need one beside the parameters", file=sys.stderr)
    if left := found.file.unused():
        print(f"  left there: {few(left)}", file=sys.stderr)
    if found.left:
        print(f"  settings left out: {'; '.join(found.left)}", file=sys.stderr)


def plan_lines(found: "Imported", options: Convert) -> list[str]:
    """Returns what `lmx convert --plan` prints."""
    import math

    from lmx.interop.imported import shapes_of
    from lmx.interop.shares import shares_of
    from lmx.interop.tensors import stored_bytes

    source, shapes = found.file.source, shapes_of(found.model)
    stored = sum(stored_bytes(source, name) for name in source.shapes)
    numbers = sum(map(math.prod, shapes.values()))
    shares = shares_of(found, hosts=options.hosts, devices=options.devices)
    most = [max(each) / 1e9 for each in zip(*shares, strict=True)]
    return [
        f"{options.source}: {found.family}, {numbers:,} parameters, {stored / 1e9:,.3f} GB as it is stored, "
        f"{4 * numbers / 1e9:,.3f} GB in float32",
        f"fsdp over {options.hosts} hosts of {options.devices} devices; each host, at most:",
        f"  asks for {most[0]:,.3f} GB of the files, in pages of {most[1]:,.3f} GB",
        f"  holds {most[2]:,.3f} GB of parameters in float32",
    ]


def export(options: Export) -> None:
    """Runs `lmx export`."""
    from lmx.interop.convert import export as write

    left = write(options.run, options.folder, to=options.to, dtype=options.dtype)
    print(f"{options.folder}: {options.run} for {options.to} in {options.dtype}", file=sys.stderr)
    if left:
        print(f"  left out: {'; '.join(left)}", file=sys.stderr)


def embed(options: Embed) -> None:
    """Runs `lmx embed`."""
    import numpy as np

    from lmx.data.files import read_lines
    from lmx.embedder import TextEmbedder

    if options.text and options.input != Path("-"):
        raise InputError(f"text and input must not be given together, got input={options.input}.")
    read = Path(os.devnull) if options.text else options.input
    check_streams(read, options.output)
    embedder = TextEmbedder.load(options.run, vector=options.vector, normalised=options.normalised)
    texts = options.text or read_lines(options.input)
    if options.output is not None and options.output.suffix == ".npy":
        check_written(options.output, input=read)
        vectors = embedder.embed(list(texts))
        with naming(options.output):
            np.save(options.output, vectors)
    else:
        with Written(options.output, input=read) as out:
            vectors = embedder.embed(list(texts))
            out.write([json.dumps([round(float(value), 7) for value in row]) for row in vectors])
    if embedder.cut:
        print(f"{embedder.cut:,} texts were cut to {embedder.max_length} tokens", file=sys.stderr)
