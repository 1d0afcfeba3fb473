"""Data that needs no download: what every task can be seen to work on, on any machine.

Here live the names under which embedded data is found; the phrasebook itself is `lmx.data.phrasebook`, the sentences of
Python's library are `lmx.data.standard_library`.
"""

from lmx.data.phrasebook.constructions import CONSTRUCTIONS
from lmx.data.phrasebook.phrases import DEFAULT_SIZES, Phrase, phrasebook
from lmx.data.standard_library import AREAS, standard_library

__all__ = ["AREAS", "CONSTRUCTIONS", "DEFAULT_SIZES", "Phrase", "phrasebook", "standard_library"]
