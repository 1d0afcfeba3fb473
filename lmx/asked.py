"""What a command line asks of the settings that a run has saved: what is left out stays, and how one is taken off."""

from collections.abc import Iterable
from typing import Any

# Where a number of 0 asks for nothing, as it does in Hugging Face's library.
NUMBERS = ("no_repeat", "top_k", "min_p")
# Where an empty text does: words of a translation. An empty stop string is a mistake.
WORDS = ("forced_bos", "suppress", "suppress_sequences", "begin_suppress")


def asked_of(options: Any, names: Iterable[str]) -> dict[str, Any]:
    """Returns what the options of these names ask, without those that were left out; None and () are settings off."""
    given = {name: value for name in names if (value := getattr(options, name)) not in (None, ())}
    off: dict[str, Any] = {name: None for name in NUMBERS if given.get(name) == 0}
    for name in WORDS:
        if given.get(name) in ("", ("",)):
            off[name] = () if isinstance(given[name], tuple) else None
    return given | off
