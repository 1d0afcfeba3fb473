"""The text that a model writes behind a prompt, out of ids that come one by one: what of it is settled, where it stops.

A character may be spread over several ids, and a stop string too: what may still change is held back.
"""

from collections.abc import Collection, Sequence

from lmx.text import Tokenizer

_UNFINISHED = "\ufffd"  # what decoders write for the bytes of a character that is not whole


class Continuation:
    """What ids say behind a prompt.

    Args:
        prompt: the ids of the prompt's own text.
        stop: the text ends where one of these would begin.
        ends: ids that say nothing at the end of a text, beside the tokenizer's own.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = (), *, ends: Collection[int] = ()
    ):
        self._tokenizer, self._prompt, self._stop, self._ends = tokenizer, list(prompt), tuple(stop), frozenset(ends)
        self._before = tokenizer.decode(self._prompt)

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ids behind the prompt, up to a stop string.

        Decoded together with the prompt: alone, a SentencePiece word loses the space before it.
        """
        text = self._whole(ids)
        places = [place for place in (text.find(each) for each in self._stop) if place >= 0]
        return text[: min(places)] if places else text

    def stops_after(self, ids: Sequence[int], *, known: int = 0) -> int | None:
        """Returns after how many ids a stop string is whole, or None where there is none.

        Args:
            known: number of ids after which there was none.
        """
        if not self._stop or not self._holds_stop(self._whole(ids)):
            return None
        numbers = range(known + 1, len(ids) + 1)
        return next((number for number in numbers if self._holds_stop(self._whole(ids[:number]))), len(ids))

    def settled(self, ids: Sequence[int]) -> str:
        """Returns the beginning of the text that no further id will change."""
        text = self.text(ids)
        if len(text) < len(self._whole(ids)):
            return text
        text = text.rstrip(_UNFINISHED)
        held = [size for each in self._stop for size in range(1, len(each)) if text.endswith(each[:size])]
        return text[: len(text) - max(held, default=0)]

    def _whole(self, ids: Sequence[int]) -> str:
        ids = ids[:-1] if ids and ids[-1] in self._ends else ids
        whole = self._tokenizer.decode([*self._prompt, *ids])
        return whole[len(self._before) :] if whole.startswith(self._before) else self._tokenizer.decode(list(ids))

    def _holds_stop(self, text: str) -> bool:
        return any(each in text for each in self._stop)
