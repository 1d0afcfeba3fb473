"""Data that needs no download: what every task can be seen to work on, on any machine.

Here live the names under which embedded data is found; the phrasebook itself is `lmx.data.phrasebook`.
"""

from lmx.data.phrasebook import CONSTRUCTIONS, DEFAULT_SIZES, Phrase, phrasebook

__all__ = ["CONSTRUCTIONS", "DEFAULT_SIZES", "Phrase", "phrasebook"]
