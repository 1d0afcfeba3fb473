"""SentencePiece models with the ids that others give them: shifted as fairseq has them, added words, Marian's table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.foreign_pieces import AddedPiece, PieceTable, PieceTableTokenizer
from lmx.interop.tokenizer_files import Beside, read_object
from lmx.sentence_pieces import open_pieces

MODEL_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model", "spm.model")
FORMS = ("t5", "mt5", "umt5", "llama", "mistral", "xlm-roberta", "mbart", "nllb", "m2m_100")
# Fairseq's dictionary begins with these, whatever SentencePiece has in their place: three pieces, <unk> first.
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
SHIFTED = ("xlm-roberta", "mbart", "nllb", "m2m_100")


def read_marian(beside: Beside, *, vocab_size: int | None) -> dict[str, PieceTableTokenizer]:
    """Returns Marian's tokenizers: `source.spm` and `target.spm` over the ids of `vocab.json`.

    With "separate_vocabs" in the settings, the target has those of `target_vocab.json`.

    Raises:
        ValueError: a file is damaged, or does not fit the model.
    """
    tables = {side: read_object(beside.folder / "vocab.json") for side in ("source", "target")}
    sizes = dict.fromkeys(tables, vocab_size)
    if beside.settings.get("separate_vocabs"):
        tables["target"] = read_object(beside.folder / "target_vocab.json")
        sizes["target"] = beside.config.get("decoder_vocab_size") or vocab_size
    found = {}
    for side, ids in tables.items():
        pieces = _placed(ids, path=beside.folder / "vocab.json")
        settings = {"reads_codes": True, "form": "marian"}
        found[side] = _made(beside, beside.folder / f"{side}.spm", pieces, size=sizes[side], side=side, **settings)
    return found


def read_sentence_pieces(beside: Beside, *, vocab_size: int | None) -> dict[str, PieceTableTokenizer]:
    """Returns the tokenizer of a folder's SentencePiece model with the ids that its type of model has.

    Raises:
        ValueError: the type of model is unknown, a file is damaged, or does not fit the model.
    """
    form = beside.model_type
    if form not in FORMS:
        raise ValueError(
            f"{beside.folder} must have a tokenizer.json, or be of a type whose SentencePiece ids are known "
            f"({', '.join(FORMS)}), got model_type={form!r} and tokenizer_class={beside.tokenizer_class!r}."
        )
    path = next(beside.folder / name for name in MODEL_FILES if (beside.folder / name).is_file())
    if (beside.folder / "vocab.json").is_file():  # M2M-100
        form = "m2m_100"
        pieces = _placed(read_object(beside.folder / "vocab.json"), path=beside.folder / "vocab.json")
    else:
        form = "nllb" if form == "m2m_100" else form  # NLLB says that it is one
        pieces = _own(path)
        if form in SHIFTED:
            pieces = [*FAIRSEQ, *pieces[3:]]
    if form in ("t5", "mt5", "umt5") and not beside.added:
        number = beside.settings.get("extra_ids")
        number = 100 if number is None else int(number)
        pieces = [*pieces, *(f"<extra_id_{index}>" for index in reversed(range(number)))]
    settings = {
        "form": form,
        "joins": form in ("xlm-roberta", "nllb"),
        "strips": form not in ("llama", "mistral"),
        "prefixes_first_only": form in ("t5", "mt5", "umt5", "llama", "mistral")
        and beside.settings.get("legacy") is False,
    }
    return {
        side: _made(beside, path, pieces, size=vocab_size, side=side, **settings) for side in beside.sides_of_texts()
    }


def _made(
    beside: Beside, path: Path, pieces: Sequence[str | None], *, size: int | None, side: str, **settings: Any
) -> PieceTableTokenizer:
    placed = list(pieces)
    ids = {piece: index for index, piece in enumerate(placed) if piece is not None}
    added = {index: _added(index, described) for index, described in beside.added.items()}
    if settings["form"] in SHIFTED:  # languages, and then the mask
        known = set(ids) | {token.content for token in added.values()}
        placed += [None] * (max(added, default=-1) + 1 - len(placed))
        mask = [] if settings["form"] == "m2m_100" else [beside.tokens.get("mask", "<mask>")]
        for text in [*beside.more, *mask]:
            if text not in known:
                ids[text] = len(placed)
                placed.append(text)
                added[ids[text]] = AddedPiece(id=ids[text], content=text, lstrip=text == beside.tokens.get("mask"))
    for text in beside.tokens.values():
        if text in ids and ids[text] not in added:
            added[ids[text]] = AddedPiece(id=ids[text], content=text)
    for index, piece in enumerate(placed):
        if piece is not None and piece.startswith("<extra_id_") and index not in added:
            added[index] = AddedPiece(id=index, content=piece, lstrip=True, rstrip=True)
    needed = max([len(placed) - 1, *added], default=-1) + 1
    total = needed if size is None else size
    if needed > total:
        last = added[needed - 1].content if needed - 1 in added else placed[-1]
        raise ValueError(f"{path}: every id must be below the model's vocab_size={size}, got {needed - 1} of {last!r}.")
    placed += [None] * (total - len(placed))
    for index, token in added.items():
        placed[index] = token.content
    ids = {piece: index for index, piece in enumerate(placed) if piece is not None}
    separators = 2 if settings["form"] == "xlm-roberta" else 1
    special = beside.specials(ids.get, num_separators=separators, side=side)
    table = PieceTable(
        pieces=placed,
        special=special,
        added=[added[index] for index in sorted(added)],
        settings=beside.settings,
        **settings,
    )
    try:
        return PieceTableTokenizer(path.read_bytes(), table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _own(path: Path) -> list[str]:
    """Returns the pieces of a SentencePiece file in the order of its ids."""
    try:
        processor = open_pieces(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return [processor.id_to_piece(index) for index in range(processor.vocab_size())]


def _placed(ids: Mapping[str, Any], *, path: Path) -> list[str | None]:
    """Returns pieces by their ids, of a file that has ids by their pieces."""
    wrong = [piece for piece, index in ids.items() if not isinstance(index, int) or not 0 <= index < 1 << 24]
    if wrong or not ids:
        raise ValueError(f"{path} must have an id for each piece, got {ids[wrong[0]]!r:.20} for {wrong[0]!r}."
                         if wrong else f"{path} must have an id for each piece, got no piece.")  # fmt: skip
    pieces: list[str | None] = [None] * (max(ids.values()) + 1)
    for piece, index in ids.items():
        if pieces[index] is not None:
            raise ValueError(
                f"{path} must have one piece for each id, got {pieces[index]!r} and {piece!r} for {index}."
            )
        pieces[index] = piece
    return pieces


def _added(index: int, described: Mapping[str, Any]) -> AddedPiece:
    flags = {name: bool(described.get(name, name == "special")) for name in ("special", "lstrip", "rstrip")}
    return AddedPiece(id=index, content=str(described.get("content")), **flags)
