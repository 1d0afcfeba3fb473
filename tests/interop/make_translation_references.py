"""Writes tests/interop/data/translations.json: what transformers translates with the models of translators.py.

Run by hand, where transformers 4.57 and torch are installed:
`PYTHONPATH=. python tests/interop/make_translation_references.py`.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.interop.translators import CASES, EXPECTED, LINES, write_folder_of

IN_PYTHON = ("marian", "pieces")  # whose ids are those of the classes in Python


def translated(name: str, folder: Path, *, languages: tuple[str, str] | None = None) -> dict[str, Any]:
    """Returns ids of the lines, and the ids, scores and texts of their translations."""
    in_python = any(part in CASES[name].tokenizer for part in IN_PYTHON)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=not in_python)
    model, told = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not told["unexpected_keys"], told
    options: dict[str, Any] = {}
    target = getattr(tokenizer, "tgt_lang", None)
    if languages is not None:
        tokenizer.src_lang, target = languages
    if target is not None:
        code = tokenizer.convert_tokens_to_ids(f"__{target}__" if name == "m2m100" else target)
        options["decoder_start_token_id" if name == "mbart" else "forced_bos_token_id"] = code
    batch = tokenizer(list(LINES), padding=True, return_tensors="pt")
    rows = tokenizer(list(LINES))["input_ids"]
    with torch.no_grad():
        found = model.eval().generate(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    words = []
    for row in found.sequences[:, 1:].tolist():
        end = row.index(model.config.eos_token_id) + 1 if model.config.eos_token_id in row else len(row)
        words.append([each for each in row[:end] if each != model.config.pad_token_id])
    scores = getattr(found, "sequences_scores", None)
    return {
        "rows": rows,
        "words": words,
        "scores": None if scores is None else [round(score, 6) for score in scores.tolist()],
        "texts": tokenizer.batch_decode(words, skip_special_tokens=True),
    }


def all_of(name: str, *, size: str = "small") -> list[dict[str, Any]]:
    """Returns what a model makes of the lines in its own languages, and in others if it has some."""
    with tempfile.TemporaryDirectory() as kept:
        folder = write_folder_of(name, Path(kept) / "theirs", size=size)
        asked = [None, *([CASES[name].languages] if CASES[name].languages else [])]
        return [translated(name, folder, languages=languages) for languages in asked]


if __name__ == "__main__":
    torch.set_num_threads(1)
    written = {name: all_of(name) for name in CASES}
    EXPECTED.write_text(json.dumps(written, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, found in written.items():
        print(name, [sorted({len(words) for words in each["words"]}) for each in found], file=sys.stderr)
    print(f"written by transformers {transformers.__version__}", file=sys.stderr)
