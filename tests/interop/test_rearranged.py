"""Sources whose rows stand in another order, or have one more, by all their parts."""

from collections.abc import Mapping

import numpy as np
import pytest

from lmx.interop.rearranged import Reordered, WithRow, halves
from lmx.interop.tensors import Index, stored_bytes


class Held:
    """Arrays in memory; remembers what was read of them."""

    where = "here"

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays, self.asked = arrays, []
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        self.asked.append((name, index))
        return self.arrays[name][index]


TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)
PARTS = [
    (),
    *((slice(first, last),) for first in range(7) for last in range(first, 8)),
    (slice(1, 6, 2), slice(1, 2)),
    (slice(None, None, 3),),
]


def test_neighbours_of_each_head_come_into_halves():
    np.testing.assert_array_equal(halves(2, 6), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])


@pytest.mark.parametrize("index", PARTS, ids=str)
def test_a_part_of_reordered_rows_is_what_the_whole_has_there(index: Index):
    source = Held({"a": TABLE, "b": TABLE})
    order = np.array([3, 0, 5, 1, 4, 2])
    found = Reordered(source, {"a": order})
    np.testing.assert_array_equal(found.read("a", index), TABLE[order][index])
    np.testing.assert_array_equal(found.read("b", index), TABLE[index])
    assert (found.where, found.shapes, stored_bytes(found, "a")) == ("here", source.shapes, 48)
    source.asked.clear()
    found.read("a", (slice(3, 5),))
    assert source.asked == [("a", (slice(1, 5),))]  # of rows 1 and 4


@pytest.mark.parametrize("index", PARTS, ids=str)
def test_a_part_with_one_more_row_is_what_the_whole_has_there(index: Index):
    bias = np.arange(6, dtype=np.float32)
    found = WithRow(Held({"a": TABLE, "bias": bias, "b": TABLE}), {"a": 7.0, "bias": -1.0, "new": 5.0}, length=6)
    assert found.shapes == {"a": (7, 2), "bias": (7,), "b": (6, 2), "new": (7,)}
    np.testing.assert_array_equal(found.read("a", index), np.concatenate([TABLE, [[7, 7]]])[index])
    np.testing.assert_array_equal(found.read("b", index), TABLE[index])
    for name, row, number in (("bias", bias, -1), ("new", np.zeros(6), 5)):
        np.testing.assert_array_equal(found.read(name, index[:1]), np.append(row, number)[index[:1]])
    assert found.where == "here"
