"""The closed table of position encodings by name. A new one is a file beside this one, and its name here."""

from typing import Literal, Protocol, runtime_checkable

from flax import nnx

from lmx.nn.positions.alibi import Alibi
from lmx.nn.positions.encoding import PositionalEncoding
from lmx.nn.positions.learned import LearnedPositions
from lmx.nn.positions.rotary import RotaryPositions
from lmx.nn.positions.sinusoidal import SinusoidalPositions
from lmx.nn.positions.t5 import RelativeBias

PositionName = Literal["sinusoidal", "tensor2tensor", "learned", "rotary", "alibi", "t5"]
LIMITED: tuple[PositionName, ...] = ("learned",)  # these know no position from max_length on


@runtime_checkable
class Sizes(Protocol):
    """What encodings are built from: the fields of a model's config."""

    @property
    def positions(self) -> PositionName:
        """The name of the encoding."""
        ...

    @property
    def width(self) -> int:
        """Width of the model."""
        ...

    @property
    def num_heads(self) -> int:
        """Number of query heads."""
        ...

    @property
    def max_length(self) -> int:
        """How many positions there are, where they are counted."""
        ...

    @property
    def first_position(self) -> int:
        """What the first token counts as, of sinusoidal positions."""
        ...

    @property
    def rotary_base(self) -> float:
        """See `rotary.rotary`."""
        ...

    @property
    def rotary_scaling(self) -> tuple[float, ...]:
        """See `rotary.stretched`."""
        ...


def make_positions(config: Sizes, *, is_causal: bool, rngs: nnx.Rngs) -> PositionalEncoding:
    """Returns the encoding that the config names, for the layers of one stack.

    Args:
        is_causal: the stack is a decoder's.
    """
    match config.positions:
        case "sinusoidal":
            return SinusoidalPositions(config.max_length, first=config.first_position)
        case "tensor2tensor":
            return SinusoidalPositions(config.max_length, first=config.first_position, is_closed=True)
        case "learned":
            return LearnedPositions(config.max_length, config.width, rngs=rngs)
        case "rotary":
            return RotaryPositions(base=config.rotary_base, scaling=config.rotary_scaling)
        case "alibi":
            return Alibi(config.num_heads)
        case "t5":
            return RelativeBias(config.width, config.num_heads, is_causal=is_causal, rngs=rngs)


def longest(config: Sizes) -> int | None:
    """Returns how many tokens a row may have at most, or None where positions do not end."""
    return config.max_length if config.positions in LIMITED else None
