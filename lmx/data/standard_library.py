"""The library of the running Python: its sources, and sentences of its docstrings with the area that each comes from.

Here live the areas, the reading of docstrings, what counts as a sentence, and the split. Sources are parsed and never
imported: nothing runs, and a module that this machine could not import is read all the same.

The split goes by what a module defines at its top: a class with all its methods, a function, or what belongs to the
module itself is wholly in one split. So a test sentence is about a class or function that training never saw, but
mostly of a module that it knows: names such as `socket` in a sentence are hints. Split by docstring, methods of one
class that say nearly the same would be on both sides; split by module, an area has too few modules, and too different
ones, to be learned. A few test sentences are nearly those of training: the library repeats itself.
"""

import ast
import functools
import hashlib
import re
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lmx.data.labelled import Examples

Split = Literal["train", "validation", "test"]

# The areas and their modules and packages, after the chapters of the library reference; `asyncio` is with the other
# ways of concurrency, `os` with files. What 3.12 or 3.13 no longer have is not listed, so that all versions have about
# the same text; what is not installed is left out. Modules compiled from C have no docstrings to parse.
AREAS: dict[str, str] = {
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched selectors signal subprocess "
    "threading",
    "files": "_pyio filecmp fileinput fnmatch genericpath glob io linecache ntpath os pathlib posixpath shutil stat "
    "tempfile",
    "graphics": "colorsys curses tkinter turtle turtledemo",
    "internet": "ftplib http imaplib ipaddress poplib smtplib socket socketserver ssl urllib uuid webbrowser wsgiref "
    "xmlrpc",
    "mail": "base64 email mailbox mimetypes quopri",
    "markup": "_markupbase html json xml",
    "numbers": "_pydecimal fractions numbers random statistics",
    "programs": "argparse cmd ctypes getopt getpass logging optparse platform pty tty",
    "runtime": "__future__ _sitebuiltins abc ast code codeop compileall contextlib dis ensurepip importlib inspect "
    "modulefinder pickletools pkgutil py_compile pyclbr runpy site symtable sysconfig tabnanny token tokenize "
    "traceback typing venv warnings zipapp zipimport",
    "storage": "bz2 configparser copyreg csv dbm gzip lzma netrc pickle plistlib shelve sqlite3 tarfile tomllib "
    "zipfile",
    "testing": "bdb cProfile doctest pdb profile pstats pydoc rlcompleter timeit trace tracemalloc unittest",
    "text": "_strptime codecs difflib encodings gettext locale pprint re reprlib shlex string stringprep textwrap",
    "types": "_collections_abc _pydatetime _weakrefset bisect calendar collections copy dataclasses datetime enum "
    "functools graphlib heapq operator types weakref zoneinfo",
}
# Parts of packages that are not of their area or not in every version.
_LEFT_OUT = frozenset(["test", "tests", "tix.py"])
_NOT_READ = frozenset(["test", "tests", "idle_test", "_bundled", "site-packages", "__pycache__"])
_NO_TEXT = frozenset(["idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings"])  # the last two: tables
_NO_SOURCES = "{} must hold the sources of Python's library, got none. Use a Python that is installed with them."
FEWEST_WORDS, MOST_WORDS = 6, 60
# Of a sentence's words at least so many are plain words; below that it is a table or code.
PLAIN_WORDS = 0.8
# Of an area's sentences, in per cent.
TEST_SHARE, VALIDATION_SHARE = 20, 10

_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Between sentences, but not behind an abbreviation.
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<!cf\.)\s+(?=[A-Z\"'`(*])")
_PLAIN_WORD = re.compile(r"[(\"'`]*[A-Za-z]+(?:['’-][A-Za-z]+)*[)\"'`]*[,;:.!?]*[)\"'`]*")
# Begins a line that does not continue the one above: of a list or of fields such as `:param name:` and `@param`.
_ITEM = re.compile(r"[-*+o]\s|\d+[.)]\s|[:@]\w")
_SIGNATURE = re.compile(r"[\w.]+\(.*\)( *->.*)?:?")
# Underlines of headings and rules of tables.
_RULE = re.compile(r"([-=~*_^#+])\1{2,}[-=+ ]*")
_PROMPTS = (">>>", "...")


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    area: str
    unit: str  # path and name of the class or function, which the split goes by


def standard_library(split: Split) -> Examples:
    """Returns sentences of the library's docstrings, labelled with their area, a key of `AREAS`.

    The same Python gives the same sentences in the same order, which mixes the areas, on every machine. On Python 3.11
    there are 7,090 for training, 1,005 for validation and 2,018 for the test, of 13 areas; the largest has 13% of each.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: this Python has no sources of its library.
    """
    splits = _splits()
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, got split={split}.")
    sentences = splits[split]
    return Examples(
        texts=[sentence.text for sentence in sentences],
        labels=[sentence.area for sentence in sentences],
        origin=f"library of Python {sys.version_info.major}.{sys.version_info.minor}, {split}",
        lines=np.arange(1, len(sentences) + 1),
    )


@functools.cache
def _splits() -> dict[str, list[_Sentence]]:
    """Returns the sentences of each split.

    Each area gives its shares: its classes and functions are taken in the order of their hashes as long as they fit,
    and what does not fit in test or validation is for training.
    """
    units: dict[str, dict[str, list[_Sentence]]] = {area: defaultdict(list) for area in AREAS}
    for sentence in _distinct(list(_read(Path(sysconfig.get_path("stdlib"))))):
        units[sentence.area][sentence.unit].append(sentence)
    splits: dict[str, list[_Sentence]] = {"train": [], "validation": [], "test": []}
    for of_area in units.values():
        total = sum(map(len, of_area.values()))
        room = {"test": total * TEST_SHARE // 100, "validation": total * VALIDATION_SHARE // 100, "train": total}
        for unit in sorted(of_area, key=_hash):
            sentences = of_area[unit]
            split = next(name for name, left in room.items() if len(sentences) <= left)
            room[split] -= len(sentences)
            splits[split] += sentences
    return {name: sorted(sentences, key=lambda one: _hash(one.text)) for name, sentences in splits.items()}


def library_sources() -> list[Path]:
    """Returns the files of the library's sources, in an order that mixes its chapters: by the hashes of their names.

    Tests, what is only there to be run (IDLE, 2to3, the demonstrations of the turtle) and what was made for this
    machine are left out.

    Raises:
        FileNotFoundError: this Python has no sources of its library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    names = {}
    for path in library.rglob("*.py"):
        name = path.relative_to(library).as_posix()
        parts = name.split("/")
        ours = parts[0].removesuffix(".py") in sys.stdlib_module_names - _NO_TEXT
        if ours and not _NOT_READ & set(parts) and not name.startswith("_sysconfigdata"):
            names[name] = path
    if not names:
        raise FileNotFoundError(_NO_SOURCES.format(library))
    return [names[name] for name in sorted(names, key=_hash)]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _distinct(sentences: list[_Sentence]) -> list[_Sentence]:
    """Returns the first of equal sentences, none where they are of different areas; only letters and digits count."""
    areas: dict[str, set[str]] = defaultdict(set)
    first: dict[str, _Sentence] = {}
    for sentence in sentences:
        content = re.sub(r"[\W_]", "", sentence.text.lower())
        areas[content].add(sentence.area)
        first.setdefault(content, sentence)
    return [sentence for content, sentence in first.items() if len(areas[content]) == 1]


def _read(library: Path) -> Iterator[_Sentence]:
    """Yields the sentences of all areas, as often as they are written; a module that is not there is left out."""
    any_source = False
    for area, modules in AREAS.items():
        for module in modules.split():
            folder, file = library / module, library / f"{module}.py"
            paths = folder.rglob("*.py") if folder.is_dir() else [file] if file.exists() else []
            names = {path.relative_to(library).as_posix(): path for path in paths}
            for name in sorted(names):
                if _LEFT_OUT & set(name.split("/")):
                    continue
                any_source = True
                for unit, docstring in _docstrings(names[name], name=name):
                    for text in sentences_of(docstring):
                        yield _Sentence(text, area, unit)
    if not any_source:
        raise FileNotFoundError(_NO_SOURCES.format(library))


def _docstrings(path: Path, *, name: str) -> Iterator[tuple[str, str]]:
    """Yields each docstring of a file and its unit: the definition at the file's top that it is in, or the file."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    yield name, ast.get_docstring(tree) or ""
    for statement in tree.body:
        unit = f"{name}:{statement.name}" if isinstance(statement, _DOCUMENTED) else name
        for node in ast.walk(statement):
            if isinstance(node, _DOCUMENTED):
                yield unit, ast.get_docstring(node) or ""


def sentences_of(docstring: str) -> Iterator[str]:
    """Yields the sentences of a docstring, each on one line: no examples, headings, code or lists of words."""
    paragraph: list[str] = []
    indentation, in_example = 0, False
    for line in [*docstring.splitlines(), ""]:
        text = line.strip()
        in_example = bool(text) and (in_example or text.startswith(_PROMPTS))
        heading = bool(_RULE.fullmatch(text))
        here = len(line) - len(line.lstrip())
        is_prose = bool(text) and not (in_example or heading or _SIGNATURE.fullmatch(text))
        if heading:
            paragraph.clear()
        elif not is_prose or here != indentation or _ITEM.match(text):
            yield from _sentences(paragraph)
            paragraph.clear()
        if is_prose:
            paragraph.append(text)
        indentation = here


def _sentences(lines: list[str]) -> Iterator[str]:
    for text in _SENTENCE_END.split(" ".join(" ".join(lines).split())):
        words = text.split()
        if (
            FEWEST_WORDS <= len(words) <= MOST_WORDS
            and text[0].isupper()
            and text.endswith((".", "!", "?"))
            and not text.endswith("..")
            and sum(bool(_PLAIN_WORD.fullmatch(word)) for word in words) >= PLAIN_WORDS * len(words)
        ):
            yield text
