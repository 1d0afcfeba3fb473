"""Opens datasets of the hub, or a local folder of such files, by the name that a location gives them.

Which columns a task reads and what they mean belongs to the module that asks.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any


def read_hub(location: str) -> Any:
    """Returns the dataset (of the `datasets` package) at `hub:ID:SPLIT` or `hub:ID:CONFIGURATION:SPLIT`.

    Raises:
        FileNotFoundError: there is no such dataset or folder.
        ValueError: the location has another form, or the dataset cannot be read.
    """
    found = re.fullmatch(r"hub:([^:\[\]]+)(?::([^:\[\]]+))?:([^:\[\]]+(?:\[[^\]]*\])?)", location)
    if not found:
        raise ValueError(f"location must be hub:ID:SPLIT or hub:ID:CONFIGURATION:SPLIT, got location={location}.")
    import datasets

    with _told(location):
        return datasets.load_dataset(found[1], found[2], split=found[3])


def stream_hub(location: str) -> tuple[Any, list[Any]]:
    """Returns the dataset at `stream:ID:SPLIT`, whose rows come one by one, and what tells its files from others.

    Also `stream:ID:CONFIGURATION:SPLIT`, and of rows from the first number up to the second `SPLIT[1000:2000]`, each of
    which may be left out.

    Raises:
        FileNotFoundError: there is no such dataset or folder.
        ValueError: the location has another form, or the dataset cannot be read.
    """
    found = re.fullmatch(r"stream:([^:\[\]]+)(?::([^:\[\]]+))?:([^:\[\]]+)(?:\[(\d*):(\d*)\])?", location)
    if not found:
        raise ValueError(
            "location must be stream:ID:SPLIT or stream:ID:CONFIGURATION:SPLIT, with [:N] or [N:M] behind it for some "
            f"rows, got location={location}."
        )
    import datasets

    with _told(location):
        builder = datasets.load_dataset_builder(found[1], found[2])
        rows: Any = builder.as_streaming_dataset(split=found[3])
        files: Any = builder.config.data_files[found[3]]  # type: ignore[index]
        facts = [sorted(files), [list(each) for each in files.origin_metadata]]
    begin, end = int(found[4] or 0), int(found[5]) if found[5] else None
    rows = rows.skip(begin) if begin else rows
    return (rows if end is None else rows.take(max(0, end - begin))), facts


@contextlib.contextmanager
def _told(location: str) -> Iterator[None]:
    """Turns what the library says into one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location} must be a hub dataset or a local folder: {_first_line(error)}") from error
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(f"{location} must be readable: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
