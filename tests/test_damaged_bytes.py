"""Weights and vocabularies of others with bytes cut out, changed or put in: read, or refused by the file's name.

`make test` tries a few of each file, `make slow` many (`LMX_FUZZ` names another number). A vocabulary that is read
must also read texts. A change that no format can see, such as another number among the weights, is read.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from lmx.interop.convert import convert
from lmx.interop.kinds import given
from lmx.interop.tokenizers import read_tokenizers
from lmx.saved import read_record
from tests.interop.test_llama2c import write_pieces
from tests.test_damaged_configs import is_read_or_refused
from tests.test_stories import WORDS
from tests.test_stories import write as write_llama2c

FEW, MANY = 4, int(os.environ.get("LMX_FUZZ", "600")) // 40
DATA = Path(__file__).parent / "interop" / "data"
WEIGHTS = sorted(
    [*DATA.glob("models/*/*.safetensors"), *DATA.glob("seq2seq/*/*.safetensors"), *DATA.glob("ctranslate2/*/model.bin")]
)
VOCABULARIES = sorted(
    path
    for ending in ("*.model", "*.spm", "merges.txt", "vocab.txt", "vocab.json", "tokenizer.json")
    for path in DATA.glob(f"tokenizers/*/{ending}")
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Returns the bytes with a range gone, changed or put in, or all behind it gone; half near the begin."""
    reach = len(content) if draw.random() < 0.5 else min(len(content), 400)
    first, size = draw.randrange(reach), draw.choice([1, 1, 2, 8, 40])
    put = draw.choice([bytes(size), b"\xff" * size, draw.randbytes(size)])
    kind = draw.choice(["cut", "change", "insert", "end"])
    if kind == "end":
        return content[:first]
    return content[:first] + (b"" if kind == "cut" else put) + content[first + (0 if kind == "insert" else size) :]


def each_is_read_or_refused(path: Path, read, *, number: int, left: Path | None = None) -> None:
    """Damages a file in as many ways as said, one after another."""
    right = path.read_bytes()
    draw = random.Random(path.parent.name + path.name)
    for case in range(number):
        path.write_bytes(damaged(right, draw))
        is_read_or_refused(read, said=case, left=left)
    path.write_bytes(right)


def named(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def weights(path: Path, folder: Path, number: int) -> None:
    theirs = Path(shutil.copytree(path.parent, folder / path.parent.name))
    each_is_read_or_refused(
        theirs / path.name, lambda: convert(theirs, folder / "run"), number=number, left=folder / "run"
    )


@pytest.mark.parametrize("path", WEIGHTS, ids=named)
def test_weights_are_read_or_refused(path: Path, tmp_path: Path):
    weights(path, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("path", WEIGHTS, ids=named)
def test_many_weights_are_read_or_refused(path: Path, tmp_path: Path):
    weights(path, tmp_path, MANY)


def vocabularies(path: Path, folder: Path, number: int) -> None:
    theirs = Path(shutil.copytree(path.parent, folder / path.parent.name))
    config = given(read_record(theirs / "config.json"), path=theirs / "config.json")

    def read() -> None:
        for tokenizer in read_tokenizers(theirs, config).values():
            tokenizer.decode(tokenizer.encode("A naïve text, 12 times."))

    each_is_read_or_refused(theirs / path.name, read, number=number)


@pytest.mark.parametrize("path", VOCABULARIES, ids=named)
def test_a_vocabulary_is_read_or_refused(path: Path, tmp_path: Path):
    vocabularies(path, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("path", VOCABULARIES, ids=named)
def test_many_vocabularies_are_read_or_refused(path: Path, tmp_path: Path):
    vocabularies(path, tmp_path, MANY)


# ---- models that are one file ----------------------------------------------------------------------------------------


def gguf_files(folder: Path, number: int) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    from tests.interop.test_gguf import write

    path = folder / "model.gguf"
    write(path)
    each_is_read_or_refused(path, lambda: convert(path, folder / "run"), number=number, left=folder / "run")


def test_a_gguf_file_is_read_or_refused(tmp_path: Path):
    gguf_files(tmp_path, 2 * FEW)


@pytest.mark.slow
def test_many_gguf_files_are_read_or_refused(tmp_path: Path):
    gguf_files(tmp_path, 4 * MANY)


def llama2c_files(folder: Path, number: int) -> None:
    model, pieces = folder / "model.bin", write_pieces(folder / "pieces.bin", WORDS)
    write_llama2c(model, tied=True)
    for path in (model, pieces):
        read = lambda: convert(model, folder / "run", pieces=pieces)  # noqa: E731
        each_is_read_or_refused(path, read, number=number, left=folder / "run")


def test_a_model_of_llama2c_is_read_or_refused(tmp_path: Path):
    llama2c_files(tmp_path, 2 * FEW)


@pytest.mark.slow
def test_many_models_of_llama2c_are_read_or_refused(tmp_path: Path):
    llama2c_files(tmp_path, 4 * MANY)
