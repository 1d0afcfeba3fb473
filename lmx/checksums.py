"""Whether the files of a checkpoint are as they were written."""

import json
import zlib
from pathlib import Path

from lmx.reasons import reason_of

CHECKSUMS = "checksums.json"


def damage_of(path: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint; one without checksums is not looked at."""
    try:
        for name, (size, checksum) in json.loads((path / CHECKSUMS).read_text(encoding="utf-8")).items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size or checksum_of(file) != checksum:
                return f"{name} is not as it was written"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{CHECKSUMS} cannot be checked ({reason_of(error)})"
    return None


def checksum_of(path: Path) -> int:
    """Returns the CRC of a file."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            total = zlib.crc32(block, total)
    return total
