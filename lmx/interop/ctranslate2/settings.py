"""What CTranslate2's specifications say of a model, as the fields of our configs.

A specification's numbers are variables of the model's file, such as "encoder/num_heads"; what a layer has besides, the
presence of its weights tells. A number that is not asked for here would be a part of the model that lmx does not have:
`Settings.unread` names it.

Source: https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/transformer_spec.py; and the defaults of its
C++ code, where a file of an earlier revision leaves something out.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.errors import InputError
from lmx.interop.ctranslate2.variables import SCALE, Variables
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.nn.positions.t5 import MAX_DISTANCE, NUM_BUCKETS

# By their numbers, as far as lmx has them; and with a gate.
ACTIVATIONS = ("relu", "gelu", "silu", "gelu-exact")
GATED = ("gated-gelu", "gated-silu", "gated-gelu-exact")
# Heads of specifications that do not write them.
HEADS = {"TransformerBase": 8, "TransformerBig": 16}
# What alignments, devices and old converters need; none of it changes a model's numbers.
HARMLESS = ("alignment_layer", "alignment_heads", "multi_query_attention", "alibi_use_positive_positions")
# What norms add to the mean square where nothing says it, here and there.
EPSILONS = {"layer": 1e-5, "rms": 1e-6}
# Settings that lmx has no counterpart of, and the value at which they do nothing.
IDLE = {
    "alibi": 0,
    "start_from_zero_embedding": 0,
    "relative_attention_max_distance": MAX_DISTANCE,
    "scale_alibi": 0,
    "layer_norm_use_residual": 0,
}
# Of rotary positions, by their numbers; Llama 3's factor is not written where it is 8.
LINEAR, LLAMA3, LLAMA3_FACTOR = 0, 2, 8.0
REACH = "max_position_embeddings"  # of config.json
LAYER = re.compile(r"/layer_\d+/")


class Spec(NamedTuple):
    """A kind of model.

    Attributes:
        name, revision: as they are written here.
        family: ours.
        scopes: of its stacks: "encoder", "decoder" or both.
    """

    name: str
    revision: int
    family: str
    scopes: tuple[str, ...]


SPECS = (
    Spec("TransformerSpec", 7, "seq2seq", ("encoder", "decoder")),
    Spec("TransformerDecoderSpec", 8, "decoder", ("decoder",)),
    Spec("TransformerEncoderSpec", 1, "masked", ("encoder",)),
)
READ = {each.name: each for each in SPECS} | dict.fromkeys(HEADS, SPECS[0])


def spec_of(variables: Variables) -> Spec:
    """Returns the kind of a model.

    Raises:
        InputError: lmx has no such models, or not of this revision.
    """
    spec = READ.get(variables.spec)
    if spec is None:
        raise InputError(
            f"{variables.path} must be a model of {', '.join(READ)}, got {variables.spec}, which lmx has no model of."
        )
    first = 2 if spec.family == "seq2seq" else 1  # the first revision had other names
    if not first <= variables.revision <= spec.revision:
        raise InputError(
            f"{variables.path} must be of revision {first} to {spec.revision} of {variables.spec}, "
            f"got {variables.revision}. Convert the model again with another version of CTranslate2."
        )
    return spec


@dataclass
class Settings:
    """The numbers of a specification, asked for by name; remembers which were.

    Attributes:
        config: of config.json beside the file.
    """

    variables: Variables
    config: Mapping[str, Any]
    asked: set[str] = field(default_factory=set)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.variables.path

    def get(self, scope: str, name: str, default: Any = None) -> Any:
        """Returns a number of a scope; files of early revisions have it once, below no scope."""
        for full in (f"{scope}/{name}", name):
            self.asked.add(full)
            if (value := self.variables.setting(full)) is not None:
                return value
        return default

    def has(self, name: str) -> bool:
        """Returns whether there is a variable of this name."""
        return name in self.variables.stored

    def unread(self, weights: Iterable[str]) -> list[str]:
        """Returns what of the file is neither among these weights nor was asked for, and does something."""
        known = {*weights, *self.variables.aliases}
        known |= {f"{name}{SCALE}" for name in known}
        found = []
        for name in sorted(self.variables.stored.keys() - known):
            last = name.rpartition("/")[2]
            if LAYER.sub("/layer_0/", name) in self.asked or last in HARMLESS:
                continue
            if last not in IDLE or self.variables.setting(name) != IDLE[last]:
                found.append(name)
        return found


def read_stack(settings: Settings, scope: str) -> dict[str, Any]:
    """Returns the fields of `TransformerConfig` that a stack tells, and its "num_layers".

    Raises:
        InputError: it is of a kind that lmx does not have.
    """
    get, path, stored = settings.get, settings.path, settings.variables.stored
    first = f"{scope}/layer_0/self_attention"
    needed = (f"{first}/linear_0/weight", f"{scope}/layer_0/ffn/linear_0/weight", words_of(settings, scope))
    for name in needed:
        if not settings.has(name) or len(stored[name].shape) != 2:
            raise InputError(f"{path} must have a matrix {name}, got none.")
    _check_alike(settings, scope)
    width = stored[needed[2]].shape[1]
    heads = int(get(scope, "num_heads", HEADS.get(settings.variables.spec, 8)))
    shared, head_width, scale = (get(first, name) for name in ("num_heads_kv", "head_dim", "queries_scale"))
    if settings.has((memory := f"{scope}/layer_0/attention") + "/linear_0/weight"):
        for name, value in (("num_heads_kv", shared), ("head_dim", head_width), ("queries_scale", scale)):
            if (other := settings.variables.setting(f"{memory}/{name}")) != value:
                raise InputError(f"{path} must have the same {name} in all attention, got {value} and {other}.")
            settings.asked.add(f"{memory}/{name}")
    is_pre = bool(get(scope, "pre_norm", 1))
    if is_pre != settings.has(f"{scope}/layer_norm/gamma"):
        raise InputError(
            f"{path} must have a norm after the {scope}'s last layer with pre_norm and none without, "
            f"got pre_norm={int(is_pre)}."
        )
    norm = "layer" if settings.has(f"{first}/layer_norm/beta") else "rms"
    epsilon = settings.config.get("layer_norm_epsilon")
    epsilon = None if epsilon in (None, EPSILONS[norm]) else float(epsilon)
    has_bias = settings.has(f"{scope}/layer_0/ffn/linear_0/bias")
    windows = get(first, "sliding_window"), get(scope, "sliding_window")
    window = windows[0] or windows[1]
    return {
        "num_layers": count_layers(settings, scope),
        "width": width,
        "feedforward_width": stored[needed[1]].shape[0],
        "num_heads": heads,
        "num_kv_heads": None if shared in (None, heads) else int(shared),
        "head_width": None if head_width is None or head_width * heads == width else int(head_width),
        "qk_norm": settings.has(f"{first}/q_norm/gamma"),
        "attention_scale": None if scale is None else float(scale),
        "window": int(window) if window else None,
        "norm": norm,
        "norm_epsilon": epsilon,
        "norm_position": "pre" if is_pre else "post",
        "activation": _activation(settings, scope),
        "use_bias": has_bias,
        "qkv_bias": settings.has(f"{first}/linear_0/bias") and not has_bias,
        "scaled_embeddings": _is_scaled(settings, scope, width),
        **_reach(settings),
        **_positions(settings, scope, width),
    }


def words_of(settings: Settings, scope: str) -> str:
    """Returns the name of the table of words; encoders of later revisions number theirs."""
    numbered = f"{scope}/embeddings_0/weight"
    return numbered if settings.has(numbered) else f"{scope}/embeddings/weight"


def count_layers(settings: Settings, scope: str) -> int:
    """Returns how many layers a stack has."""
    number = 0
    while settings.has(f"{scope}/layer_{number}/self_attention/linear_0/weight"):
        number += 1
    return number


def is_interleaved(settings: Settings, scope: str) -> bool:
    """Returns whether rotary positions turn neighbouring features of a head together, and not its halves."""
    first = f"{scope}/layer_0/self_attention"
    return settings.get(first, "rotary_dim") is not None and bool(settings.get(first, "rotary_interleave", 1))


def _check_alike(settings: Settings, scope: str) -> None:
    """Checks that layers differ in their weights alone: they are one stack with us."""
    prefix = f"{scope}/layer_"
    for name, each in settings.variables.stored.items():
        if name.startswith(prefix) and not each.shape and not name.endswith(SCALE):
            of_first = settings.variables.setting(LAYER.sub("/layer_0/", name))
            value = settings.variables.setting(name)
            if of_first != value:
                raise InputError(
                    f"{settings.path} must have equal layers, got {name}={value} and {of_first} in layer 0."
                )


def _activation(settings: Settings, scope: str) -> str:
    number = int(settings.get(scope, "activation", 0))
    gated = settings.has(f"{scope}/layer_0/ffn/linear_0_noact/weight")
    name = ("gated-" if gated else "") + ACTIVATIONS[number] if number < len(ACTIVATIONS) else f"number {number}"
    if name not in (*ACTIVATIONS, *GATED):
        known = ", ".join((*ACTIVATIONS, *GATED))
        raise InputError(f"{settings.path} must have an activation of {known}, got {name}.")
    return name


def _is_scaled(settings: Settings, scope: str, width: int) -> bool:
    old = settings.get(f"{scope}/embeddings", "multiply_by_sqrt_depth", 1)
    scale = settings.get(scope, "scale_embeddings", old)
    if isinstance(scale, int):  # a flag
        return bool(scale)
    if math.isclose(scale, width**0.5, rel_tol=1e-4):
        return True
    if scale != 1:
        raise InputError(
            f"{settings.path} must scale embeddings by sqrt(width)={width**0.5:g} or not at all, got {scale:g}."
        )
    return False


def _positions(settings: Settings, scope: str, width: int) -> dict[str, Any]:
    """Returns the fields that say how a stack knows where tokens stand."""
    first = f"{scope}/layer_0/self_attention"
    stored = settings.variables.stored
    if (turned := settings.get(first, "rotary_dim")) is not None:
        if turned and turned != (head := settings.get(first, "head_dim", width // settings.get(scope, "num_heads"))):
            raise InputError(f"{settings.path} must turn whole heads of {head} features, got rotary_dim={turned}.")
        base = float(settings.get(first, "rotary_base", 10000.0))
        return {"positions": "rotary", "rotary_base": base, "rotary_scaling": _rotary_scaling(settings, first)}
    if settings.get(scope, "alibi", 0):
        return {"positions": "alibi"}
    if settings.has(name := f"{first}/relative_attention_bias"):
        if stored[name].shape[0] != NUM_BUCKETS:
            raise InputError(f"{settings.path} must have {NUM_BUCKETS} ranges of distances, got {stored[name].shape}.")
        return {"positions": "t5"}
    if settings.has(name := f"{scope}/position_encodings/encodings"):
        settings.asked.add(name)  # it need not be a weight: sines are computed
        exact = stored[name].kind == "float32"
        return _of_table(settings.variables.read(name), tolerance=1e-5 if exact else 5e-3)
    return {"positions": "tensor2tensor", "first_position": 1}


def _reach(settings: Settings) -> dict[str, int]:
    """Returns how long rows may be, where config.json says it; the package does not ask."""
    length = settings.config.get(REACH)
    return {"max_length": length} if isinstance(length, int) and length > 0 else {}


def _rotary_scaling(settings: Settings, scope: str) -> tuple[float, ...]:
    kind, factor = (settings.get(scope, f"rotary_scaling_{name}") for name in ("type", "factor"))
    if kind is None:
        return ()
    if kind == LINEAR:
        return (float(factor or 1),)
    names = ("rotary_low_freq_factor", "rotary_high_freq_factor", "original_max_position_embeddings")
    more = [settings.get(scope, name) for name in names]
    if kind != LLAMA3 or None in more:
        raise InputError(f"{settings.path} must stretch rotary positions by a factor or as Llama 3, got type {kind}.")
    return (float(factor or LLAMA3_FACTOR), *map(float, more))


def _of_table(table: np.ndarray, *, tolerance: float) -> dict[str, Any]:
    """Returns which positions a table holds: sinusoidal ones, if it is equal to them, else learned ones."""
    length, width = table.shape
    for first in range(3):  # fairseq counts from behind its padding's id
        for name in ("sinusoidal", "tensor2tensor"):
            made = sinusoidal(length, width, first=first, is_closed=name == "tensor2tensor")
            if np.abs(np.asarray(made) - table).max() < tolerance:
                return {"positions": name, "first_position": first, "max_length": length}
    return {"positions": "learned", "max_length": length}
