"""Where two configs differ, and what a config of an earlier version means."""

import json
from collections.abc import Callable, Mapping
from typing import Any

SAME = "same"  # what a field says that is as another one, whose changes it holds


def filled_config(
    config: Mapping[str, Any], later: Mapping[str, Any], absent: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a saved config with what it lacks of a later one, as `absent` gives it, and that by its dotted names.

    What `absent` gives as `SAME` takes the place of what is saved: an earlier version wrote it otherwise.
    """
    filled, taken = json.loads(json.dumps(config)), {}
    try:
        values = json.loads(json.dumps(dict(absent(config))))
    except (LookupError, TypeError, AttributeError):
        return filled, {}  # something else is wrong there: the comparison names it
    for name, value in values.items():
        *way, last = name.split(".")
        part: Any = filled
        now: Any = later
        for each in way:
            part, now = (value.get(each) if isinstance(value, Mapping) else None for value in (part, now))
        if isinstance(part, dict) and isinstance(now, Mapping) and last in now:
            if value == SAME:
                part[last] = value
            elif last not in part:
                part[last] = taken[name] = value
    return filled, taken


def few(names: list[Any]) -> str:
    """Returns the first names of a list, as people enumerate them."""
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def differences(old: Any, new: Any, *, name: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted name, old, new) for each place where two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            item
            for key in sorted(old.keys() | new.keys())
            for item in differences(old.get(key), new.get(key), name=f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [(name, old, new)]
