"""What any position encoding answers: three questions, each with a default that does nothing.

Layers never ask which kind they have. They put the same three questions in training, in evaluation and in cached
decoding, and a kind overrides the ones that it acts on. It is the one base class of the library: a record of three
functions would have no place for parameters, and would be as long.
"""

from flax import nnx
from jaxtyping import Array, Float, Int


class PositionalEncoding(nnx.Module):
    """How a model knows where tokens stand; this one does not tell it.

    Positions are explicit where rows are packed or decoded from a cache. `positions=None` stands for 0, 1, 2, ...
    """

    def add(self, x: Float[Array, "B T D"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T D"]:
        """Returns the vectors of tokens with their positions added, once below the first layer."""
        return x

    def rotate(self, x: Float[Array, "B T H K"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T H K"]:
        """Returns queries or keys of self-attention turned by their positions, in each layer."""
        return x

    def bias(self, queries: Int[Array, "#B T"], keys: Int[Array, "#B S"]) -> Float[Array, "#B H T S"] | None:
        """Returns what is added to the scores of self-attention, the same in each layer; None adds nothing.

        It is asked for some queries of a row at a time, and for keys that wait in a cache in any order: each entry must
        depend on its own query's and key's positions alone.
        """
        return None
