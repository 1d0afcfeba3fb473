"""What a training takes over from a finished run: its sizes, its vocabulary, and the parameters that fit.

Parameters fit by name and shape, so that an encoder that was trained to fill in masked words begins a classifier, and
a translator of one domain that of another. What is new keeps the values it was drawn with.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lmx.definition import Definition, Params
from lmx.differences import few
from lmx.errors import InputError
from lmx.interop.convert import is_foreign, open_model
from lmx.interop.located import located
from lmx.learner import Placed
from lmx.lora import LORA, LoraConfig, with_lora
from lmx.nn.config import TransformerConfig
from lmx.nn.positions.make import longest as longest_of
from lmx.parameters import open_params
from lmx.run import Run
from lmx.saved import find_tokenizers, load_tokenizers, read_field, read_record, tokenizer_of
from lmx.text import Tokenizer
from lmx.training import TrainState

Model = TypeVar("Model", bound=TransformerConfig)

# Fields of a model that say how it is trained and computed, not what its parameters mean: they stay the experiment's.
RATES = ("dropout_rate", "attention_dropout_rate", "feedforward_dropout_rate", "pooled_dropout_rate")
OWN = (*RATES, "kernel", "dtype", "remat", "unroll")
# Fields that the new data decides, as it would without a pretrained run.
OF_DATA = (
    "vocab_size",
    "source_vocab_size",
    "target_vocab_size",
    "num_outputs",
    "output_mean",
    "output_scale",
    "pad_id",
)


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What a training begins with.

    Attributes:
        init_from: directory of a finished run, or a model of Hugging Face (a folder or an id of the hub), CTranslate2
            or GGUF; takes over its sizes, vocabulary and all parameters that fit. None begins with random values.
        lora: train low-rank changes of matrices instead of all parameters.
    """

    init_from: Path | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)

    @functools.cached_property
    def source(self) -> Path | None:
        """Where the pretrained model lies.

        Raises:
            FileNotFoundError: there is no such model.
        """
        return None if self.init_from is None else located(self.init_from)

    def adapt(self, model: Definition) -> Definition:
        """Returns the model whose parameters are trained, see `lmx.lora.with_lora`."""
        return with_lora(model, self.lora)

    def tokenizer(self, run: Path) -> Tokenizer | None:
        """Returns the tokenizer of a run or, before it has one, of what it begins with; None where neither has one."""
        if find_tokenizers(run):
            return tokenizer_of(run)
        if self.source is not None and is_foreign(self.source):
            return open_model(self.source).tokenizers.get("tokenizer")
        return tokenizer_of(run, self.source)

    def tokenizers(self, run: Path) -> tuple[Tokenizer, Tokenizer]:
        """Returns the tokenizers of source and target of a run or, before it has them, of what it begins with.

        Raises:
            FileNotFoundError: neither has them.
        """
        if find_tokenizers(run):
            return load_tokenizers(run)
        if self.source is not None and is_foreign(self.source):
            found = open_model(self.source).tokenizers
            if joint := found.get("tokenizer"):
                return joint, joint
            if {"source", "target"} <= found.keys():
                return found["source"], found["target"]
        return load_tokenizers(run, self.source)

    def sizes(self, model: Model, *, run: Path, longest: int) -> Model:
        """Returns a model config with the sizes of the run that a training begins with.

        A run that has begun has them in its own config.json; the other one need not be there any more.

        Args:
            run: the directory of the training.
            longest: tokens of a row, which the positions must reach.

        Raises:
            FileNotFoundError: there is no such run.
            ValueError: a config.json is damaged.
            InputError: its model has not been trained, is of quite another kind, or knows too few positions.
        """
        if self.init_from is None:
            return model
        own = run / "config.json"
        if own.is_file():
            saved = read_field(read_record(own), "config", "model", kind=dict, path=own)
        else:
            saved = read_field(_finished(self.source), "model", kind=dict, path=Path(f"{self.source}", "config.json"))
        names = {each.name for each in dataclasses.fields(model)} - {*OWN, *OF_DATA}
        taken = {
            name: tuple(value) if isinstance(value, list) else value for name, value in saved.items() if name in names
        }
        if missing := [name for name in ("width", "num_heads") if name not in taken]:
            raise InputError(f"{self.init_from} must hold a Transformer, got one without {' and '.join(missing)}.")
        changed: Any = model
        model = dataclasses.replace(changed, **taken)
        if (most := longest_of(model)) is not None and most < longest:
            raise InputError(f"max_length must be at most the {most} positions of {self.init_from}, got {longest}.")
        return model

    def begin(self, placed: Placed, run: Run) -> Placed:
        """Returns a learner whose states are born with the parameters of a finished run, where they fit.

        The run says what was loaded, what is new, what was left, and what did not fit.

        Raises:
            FileNotFoundError: there is no such run.
            ValueError: its file of parameters is damaged.
            InputError: nothing of it fits.
        """
        if self.init_from is None:
            return placed

        def born(seeds: Sequence[int]) -> TrainState:
            source = self.source  # a run that goes on needs it no more
            assert source is not None
            _finished(source)
            with _opened(source) as file:
                fit = _compared(placed, file, source)
                # What has a place in the file is not drawn, and takes the memory of zeros that wait for it.
                state = placed.born(seeds, blank=fit.loaded)
                params = _loaded(state.params, placed, file, fit)
            for line in fit.lines(source):
                run.console.print(line)
            kept = [name for name in ("average", "best") if getattr(state, name) is not None]
            copies = {name: jax.tree.map(_copied, params, getattr(state, name)) for name in kept}
            return state._replace(params=params, **copies)

        return placed._replace(born=born)


def _copied(array: jax.Array, instead: jax.Array) -> jax.Array:
    """Returns a copy of an array in the place of another one, whose memory it takes."""
    if instead is not array:
        instead.delete()
    return jnp.copy(array)


def _finished(directory: Path | None) -> dict[str, Any]:
    """Returns what config.json says of a finished run, or would say of a foreign model that had become one."""
    assert directory is not None
    if is_foreign(directory):
        return {"model": dataclasses.asdict(open_model(directory).model)}
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"init_from must be a run directory, got {directory}, which has no config.json.")
    saved = read_record(directory / "config.json")
    if "model" not in saved or not (directory / "model.safetensors").is_file():
        raise InputError(f"init_from must be a finished run, got {directory}, whose training has not ended.")
    return saved


class _Fit(NamedTuple):
    """Which parameters of a model a file has.

    Attributes:
        there: shapes of all that the file has.
        loaded: numbers of each that is taken over.
        unlike: what has another shape there, in words.
        new: what is not there.
    """

    there: dict[str, tuple[int, ...]]
    loaded: dict[str, int]
    unlike: list[str]
    new: list[str]

    def lines(self, directory: Path) -> Iterator[str]:
        """Yields the lines that a run prints of it."""
        left = sorted(self.there.keys() - self.loaded.keys() - {each.split(" has ")[0] for each in self.unlike})
        yield f"begins with {directory}: {len(self.loaded)} arrays, {sum(self.loaded.values()):,} parameters"
        for about, names in (
            ("new, drawn at random", self.new),
            ("does not fit, drawn at random", self.unlike),
            ("left there", left),
        ):
            if names:
                yield f"  {about}: {few(_parts(names, self.loaded) if names is not self.unlike else names)}"


def _compared(placed: Placed, file: Any, directory: Path) -> _Fit:
    """Returns which parameters of a model a file has.

    A table of words may have more rows there, such as one for masked words, which the new model does without; or fewer,
    and the new words begin with zeros.

    Raises:
        InputError: it has none.
    """
    stacked = placed.learner.num_seeds is not None
    there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    fit = _Fit(there, {}, [], [])

    def compare(path: tuple, leaf: Any, axes: tuple[str | None, ...]) -> None:
        name, shape = _named(path), leaf.shape[stacked:]
        saved = there.get(name)
        if saved is not None and (saved == shape or (axes[:1] == ("vocab",) and saved[1:] == shape[1:])):
            fit.loaded[name] = math.prod(shape)
        elif saved is not None:
            fit.unlike.append(f"{name} has {saved} there and {shape} here")
        elif not name.startswith(f"{LORA}."):
            fit.new.append(name)

    jax.tree_util.tree_map_with_path(compare, placed.like.params, placed.learner.model.axes)
    if not fit.loaded:
        raise InputError(
            f"init_from must hold parameters of this model, got {directory}, of which none has the name and shape of "
            f"one here: it has {few(sorted(there))}."
        )
    return fit


def _loaded(params: Params, placed: Placed, file: Any, fit: _Fit) -> Params:
    """Returns parameters with those of a file in the place of the ones that fit; devices never hold the model twice."""
    stacked = placed.learner.num_seeds is not None

    def take(path: tuple, array: jax.Array) -> jax.Array:
        name, shape, sharding, dtype = _named(path), array.shape, array.sharding, array.dtype
        if name not in fit.loaded:
            return array
        part, rows = file.get_slice(name), (fit.there[name] or (0,))[0]

        def piece(index: Any) -> np.ndarray:
            index = index[stacked:]
            if fit.there[name] == shape[stacked:]:
                values = np.asarray(part[index] if index else file.get_tensor(name), dtype)
            else:  # a table of words, of which the file may have fewer
                first, last, _ = index[0].indices(shape[stacked])
                values = np.asarray(part[(slice(min(first, rows), min(last, rows)), *index[1:])], dtype)
                values = np.pad(values, [(0, last - first - len(values)), *[(0, 0)] * (values.ndim - 1)])
            return np.broadcast_to(values, (shape[0], *values.shape)) if stacked else values

        array.delete()
        return jax.make_array_from_callback(shape, sharding, piece)

    return jax.tree_util.tree_map_with_path(take, params)


def _named(path: tuple) -> str:
    return ".".join(str(entry.key) for entry in path)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Any]:
    """Opens the parameters of a run or of a foreign model, under our names."""
    if is_foreign(directory):
        yield open_model(directory).file
    else:
        with open_params(directory / "model.safetensors") as file:
            yield file


def _parts(names: Sequence[str], others: Mapping[str, int]) -> list[str]:
    """Returns names shortened to the parts of the model that hold nothing else."""
    short = {}
    for name in names:
        words = name.split(".")
        ends = (".".join(words[:end]) for end in range(1, len(words) + 1))
        short[next(end for end in ends if end == name or not any(f"{o}.".startswith(f"{end}.") for o in others))] = None
    return list(short)
