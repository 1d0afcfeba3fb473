"""Opens datasets of the hub, or a local folder of such files, by the name that a location gives them.

Which columns a task reads and what they mean belongs to the module that asks.
"""

import re
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
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(found[1], found[2], split=found[3])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location} must be a hub dataset or a local folder: {_first_line(error)}") from error
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(f"{location} must be readable: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
