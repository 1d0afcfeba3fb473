"""Text out of ids that come one by one: what is settled stays, and together it is the whole."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmx.continuation import Continuation
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer

TEXTS = ["the cat sat on the mat", "a dog ran over the hill", "birds sing in the morning é"] * 4
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "words": PretokenizedTokenizer(["the", "ca@@", "t", "do@@", "g", "sat"]),
    "pieces": SentencePieceTokenizer.train(TEXTS, vocab_size=330, byte_fallback=True),
    "characters": SymbolTokenizer.from_texts(TEXTS, unit="characters"),
}


def pieces_of(text: Continuation, ids: list[int]) -> list[str]:
    """What a reader gets: what is settled after each id, and the rest at the end."""
    told = [""]
    for number in range(1, len(ids) + 1):
        settled = text.settled(ids[:number])
        assert settled.startswith("".join(told)), "what was told does not change"
        told.append(settled[len("".join(told)) :])
    return [*told, text.text(ids)[len("".join(told)) :]]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_pieces_together_are_the_text(name, data):
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.encode(data.draw(st.sampled_from(["", "the cat", "the", "ca@@", "é "])))
    ids = data.draw(st.lists(st.integers(3, tokenizer.vocab_size - 1), max_size=12))
    stop = data.draw(st.sampled_from([(), ("e",), ("at ", "the"), ("\ufffd\ufffd",)]))
    text = Continuation(tokenizer, prompt, stop)
    number = text.stops_after(ids)
    ids = ids if number is None else ids[:number]
    whole = text.text(ids)
    assert "".join(pieces_of(text, ids)) == whole
    assert not any(each in whole for each in stop)
    if number is not None:
        assert text.stops_after(ids[: number - 1]) is None


def test_a_character_of_several_bytes_comes_when_it_is_whole():
    tokenizer = TOKENIZERS["bytes"]
    text = Continuation(tokenizer, tokenizer.encode("a"))
    assert pieces_of(text, tokenizer.encode("é€😀b")) == ["", "", "é", "", "", "€", "", "", "", "😀", "b", ""]
    # What never becomes a character is told at the end, as the replacement it is decoded to.
    assert pieces_of(text, tokenizer.encode("é")[:1]) == ["", "", "\ufffd"]


def test_a_word_keeps_the_space_before_it():
    for name in ("pieces", "words"):
        tokenizer = TOKENIZERS[name]
        text = Continuation(tokenizer, tokenizer.encode("the"))
        assert text.text(tokenizer.encode("sat")) == " sat"
        assert Continuation(tokenizer, []).text(tokenizer.encode("sat")) == "sat"
    words = TOKENIZERS["words"]
    assert Continuation(words, words.encode("the ca@@")).text(words.encode("t sat")) == "t sat"


def test_the_beginning_of_a_stop_string_is_held_back():
    tokenizer = TOKENIZERS["characters"]
    text = Continuation(tokenizer, [], ("sat", "at m"))
    assert pieces_of(text, tokenizer.encode("a saa")) == ["", "", "a ", "", "", "sa", "a"]
    ids = tokenizer.encode("on sat the")
    assert text.stops_after(ids) == 6
    assert text.stops_after(ids[:5]) is None
    assert text.text(ids) == "on "
    assert Continuation(tokenizer, [], ("t the", "at")).text(ids) == "on s"  # the one that begins first


def test_ids_that_end_a_text_say_nothing_at_its_end_alone():
    tokenizer = TOKENIZERS["characters"]
    ids = tokenizer.encode("on sat")
    end = ids[-1]
    text = Continuation(tokenizer, [], ends=(end,))
    assert text.text(ids) == "on sa"
    assert text.text([*ids, *tokenizer.encode("s")]) == "on sats"
    assert text.text([end]) == text.text([]) == ""
    assert Continuation(tokenizer, [], ("sat",), ends=(end,)).stops_after(ids) is None


def test_a_stop_string_is_looked_for_behind_what_is_known_to_have_none():
    tokenizer = TOKENIZERS["characters"]
    asked, ids = [], tokenizer.encode("on sat the")

    class Noting(Continuation):
        def _whole(self, ids) -> str:
            asked.append(len(ids))
            return super()._whole(ids)

    assert Noting(tokenizer, [], ("sat",)).stops_after(ids, known=4) == 6
    assert asked == [10, 5, 6]
