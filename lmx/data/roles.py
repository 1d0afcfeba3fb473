"""Sets of a run by what they are there for: to learn from, to choose the best step by, and to be scored on."""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lmx.errors import InputError

_NO_PATHS = ("hub:", "stream:")


def check_locations(
    record: Any,
    *,
    embedded: str | None,
    way_out: str,
    files_of: Callable[[str], Iterable[str]] = lambda location: [location],
) -> None:
    """Checks that the fields train, validation and test of a record name no place twice; see `check_apart`.

    Args:
        embedded: the location that has a part of its own for each set.
        files_of: the files that a location names.

    Raises:
        InputError: two of them do.
    """
    given = {name: getattr(record, name) for name in ("train", "validation", "test")}
    apart = {name: files_of(location) for name, location in given.items() if location not in (None, embedded)}
    check_apart(apart, way_out=way_out)


def check_folds(folds: int | None, *, test: str | None) -> None:
    """Checks that folds, where they are asked for, are the only test set.

    Raises:
        InputError: they are not, or there is one.
    """
    if folds is not None and (test is not None or folds < 2):
        raise InputError(
            f"folds must be at least 2, and take the place of a test set, got folds={folds} and test={test}. "
            "Say --test None for a preset that has one."
        )


def check_apart(sets: Mapping[str, Iterable[str]], *, way_out: str) -> None:
    """Checks that no two sets are read from one place, however it is written.

    Args:
        sets: by the name of each, its locations.
        way_out: what to do instead, for the message.

    Raises:
        InputError: two of them are.
    """
    found = {name: {_place_of(location): location for location in locations} for name, locations in sets.items()}
    for (name, places), (other, others) in itertools.combinations(found.items(), 2):
        for place, location in others.items():
            if place in places:
                raise InputError(
                    f"{other} must be another set than {name}, got {location} for both. What chooses the best step has "
                    f"no part in learning, and what is reported none in either; {way_out}"
                )


def _place_of(location: str) -> str:
    """Returns one spelling for all that name one file or folder."""
    return location if location.startswith(_NO_PATHS) else os.path.realpath(location)
