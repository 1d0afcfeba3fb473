"""SentencePiece with a table of ids of its own: what each field of the table does, on a model of a few pieces."""

from dataclasses import replace

import pytest

from lmx.foreign_pieces import AddedPiece, PieceTable, PieceTableTokenizer
from lmx.foreign_text import Specials
from lmx.text import SentencePieceTokenizer

OWN = SentencePieceTokenizer.train(["a cat", "cat a", "act"], vocab_size=12)
PIECES = OWN.pieces(range(OWN.vocab_size))  # <pad>, <s>, </s>, <unk>, then those of the text
FIRST = len(PIECES)
ADDED = (
    AddedPiece(id=FIRST, content="<x>"),
    AddedPiece(id=FIRST + 1, content="<x><y>", special=False),
    AddedPiece(id=FIRST + 2, content="<l>", lstrip=True),
    AddedPiece(id=FIRST + 3, content="<r>", rstrip=True, special=False),
)
TABLE = PieceTable(
    pieces=[*PIECES, *(each.content for each in ADDED), None], special=Specials(pad=0, bos=1, eos=2, unk=3), added=ADDED
)


def table(**changes) -> PieceTableTokenizer:
    return PieceTableTokenizer(OWN.model, replace(TABLE, **changes))


def test_added_pieces_are_found_first_the_longest_first() -> None:
    made = table()
    x, xy, left, right = (each.id for each in ADDED)
    assert made.encode("cat") == OWN.encode("cat")
    assert made.encode("<x><y>") == [xy]
    assert made.encode("<x><x><y>") == [x, xy]
    assert made.encode("<x>cat") == [x, *OWN.encode("cat")]
    assert table(added=ADDED[::-1]).encode("<x><y>") == [xy]
    # White space beside a piece is the piece's, on its own side alone.
    assert made.encode("cat  <l>")[-1] == left
    assert made.encode("<r>  cat") == [right, *OWN.encode("cat")]
    assert made.encode("a <l>cat") == [*OWN.encode("a"), left, *OWN.encode("cat")]


def test_decoded_text_is_without_what_is_special_or_unknown() -> None:
    made = table()
    x, xy, _, right = (each.id for each in ADDED)
    ids = OWN.encode("a cat")
    assert made.decode([1, *ids, x, 3, 2, *ids]) == "a cat"
    assert made.decode([*ids, xy]) == "a cat<x><y>"
    assert made.decode([FIRST + 4, *ids]) == "a cat"  # an id without a piece
    assert made.pieces([0, x, right, FIRST + 4]) == ["<pad>", "<x>", "<r>", f"<{FIRST + 4}>"]
    assert (made.vocab_size, made.pad_id, made.bos_id, made.eos_id, made.unk_id) == (FIRST + 5, 0, 1, 2, 3)


def test_a_text_stands_between_what_its_table_puts_around_it() -> None:
    made = table(special=replace(TABLE.special, before=(FIRST,), after=(FIRST + 1,), num_separators=2))
    assert made.encode("cat") == [FIRST, *OWN.encode("cat"), FIRST + 1]
    assert made.num_separators == 2


def test_a_saved_table_is_the_same(tmp_path) -> None:
    made = table(joins=True, strips=False, reads_codes=True, form="marian", settings={"a": 1})
    again = PieceTableTokenizer.from_file(made.save(tmp_path / "tokenizer.pieces"))
    assert again.table == replace(made.table, pieces=list(made.table.pieces), added=list(made.table.added))
    assert again.model == made.model


@pytest.mark.parametrize("index", [-1, FIRST + 5])
def test_an_id_outside_of_the_table_is_refused(index) -> None:
    with pytest.raises(ValueError, match=rf"every id must be below the model's vocab_size={FIRST + 5}, got {index} of"):
        table(added=[AddedPiece(id=index, content="<z>")])
