"""The tokenizers of another library's model: found by the files of its folder, and written as it reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmx.interop.sentence_pieces import MODEL_FILES, read_marian, read_sentence_pieces
from lmx.interop.tokenizer_files import read_beside
from lmx.interop.tokenizer_json import read_byte_pairs, read_tokenizer_json, read_word_pieces
from lmx.interop.tokenizer_writing import write_tokenizers
from lmx.text import Tokenizer

__all__ = ["read_tokenizers", "write_tokenizers"]


def read_tokenizers(folder: Path, config: Mapping[str, Any]) -> dict[str, Tokenizer]:
    """Returns the tokenizers of a Hugging Face folder: `tokenizer`, or `source` and `target` where they differ.

    A `tokenizer.json` counts before older files. The ids that pad, begin and end a row come from `config.json`,
    `generation_config.json` and what stands beside the vocabulary; `bos_id` is what a decoder starts from.

    Args:
        config: the content of the folder's `config.json`.

    Raises:
        FileNotFoundError: the folder has no tokenizer.
        ModuleNotFoundError: a library is not installed that reads this kind.
        ValueError: a file is damaged, of an unknown kind, or does not fit the model.
    """
    folder = Path(folder)
    beside = read_beside(folder, config)
    size = config.get("vocab_size")
    vocab_size = size if isinstance(size, int) and size > 0 else None
    for names, read in FORMS.items():
        if all((folder / name).is_file() for name in names):
            return dict(read(beside, vocab_size=vocab_size))
    forms = ", or ".join(" and ".join(names) for names in FORMS)
    raise FileNotFoundError(f"{folder} must have a tokenizer ({forms}), got none of these.")


FORMS: dict[tuple[str, ...], Callable[..., Mapping[str, Tokenizer]]] = {
    ("source.spm", "target.spm", "vocab.json"): read_marian,
    ("tokenizer.json",): read_tokenizer_json,
    ("vocab.txt",): read_word_pieces,
    ("vocab.json", "merges.txt"): read_byte_pairs,
    **{(name,): read_sentence_pieces for name in MODEL_FILES},
}
