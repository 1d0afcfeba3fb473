"""Predictions as lines of a file: index, label, and how probable it is."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lmx.scoring.measures import Kind


def prediction_lines(
    outputs: Float[np.ndarray, "texts *C"], *, kind: Kind, names: Sequence[str], threshold: float = 0.5
) -> list[str]:
    """Returns the lines of a `predictions.tsv`, a header first: index, prediction by name, its probability.

    Several labels of one text, and their probabilities, have `|` between; real numbers have no probability. Names are
    as `written_label` gives them. The file is read again, to compare two runs, as labels in its column `prediction`,
    with `label_separator="|"` where texts have several.
    """
    if kind == "regression":
        return ["index\tprediction", *(f"{index}\t{float(value)!r}" for index, value in enumerate(outputs))]
    names = [written_label(name, kind=kind) for name in names]
    lines = ["index\tprediction\tprobability"]
    for index, row in enumerate(outputs):
        chosen = [int(row.argmax())] if kind == "single" else np.flatnonzero(row >= threshold).tolist()
        shown = "|".join(names[number] for number in chosen), "|".join(f"{row[number]:.6f}" for number in chosen)
        lines.append("\t".join([str(index), *shown]))
    return lines


def written_label(name: str, *, kind: Kind) -> str:
    r"""Returns a label's name as a file of tables has it: what would separate is escaped, so that it is read back.

    Tabs, line ends and other control characters, white space at an end, the backslash itself, and `|` where a text may
    have several labels, are escaped as in Python: `a|b` is `a\x7cb`. All other names are as they are.
    """
    separating = _SEPARATES_SEVERAL if kind == "multi" else _SEPARATES
    return separating.sub(lambda found: _escaped(found[0]), name)


def _escaped(character: str) -> str:
    code = ord(character)
    known = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    return known.get(character, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


_SEPARATES = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]|^\s|\s$")
_SEPARATES_SEVERAL = re.compile(rf"{_SEPARATES.pattern}|\|")
