"""Prompts in, texts out: the one path that scripts, the command line and notebooks share.

A `Generator` is a decoder, its tokenizer and how words are chosen (`lmx.sampling`). Its batches are run by
`lmx.writer`, and texts come back in the order of the prompts.
"""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Yielding
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lmx.continuation import Continuation
from lmx.definition import define
from lmx.generation import Ids
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.parameters import Params
from lmx.sampling import Sampling
from lmx.saved import find_tokenizers, read_config, read_field, read_fields
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.text import Tokenizer, load_tokenizer
from lmx.unstacked import Unstacked, load_unstacked
from lmx.writer import Asked, Writer, Written, digest

StoppedBy = Literal["end", "stop", "max_tokens", "context"]


@dataclass(frozen=True)
class Generated:
    """A text that a model has written.

    Attributes:
        prompt: the text that it continues.
        text: the continuation, without end token and stop string.
        tokens: the ids that were written, with those of the end or the stop string.
        logprob: the sum of their log-probabilities by the model itself, whatever the sampling.
        stopped_by: why it ended: "end", the end token; "stop", a stop string; "max_tokens", the limit of the sampling;
            "context", the number of positions of the model.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    logprob: float
    stopped_by: StoppedBy


@dataclass(frozen=True)
class Scored:
    """A text and how likely a model finds it: each token after those before it, and their sum."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """The log-probability of the whole text."""
        return float(sum(self.logprobs))


class Frame(NamedTuple):
    """The ids around the texts of a decoder.

    Attributes:
        first: before each prompt, if the model was trained with one. Without it, an empty prompt begins after the end
            of another text.
        separator: after each prompt, if the model was trained on pairs: the model then writes a separate text.
        ends: what ends a text beside the tokenizer's `eos_id`, such as the end of a turn in a chat.
    """

    first: int | None = None
    separator: int | None = None
    ends: tuple[int, ...] = ()


PLAIN = Frame()


class Generator:
    """Writes texts with one decoder.

    Args:
        params: as `nnx.to_pure_dict` returns them, or with their layers apart.
        tokenizer: of prompts and texts; it must pad as the model does.
        sampling: how to choose words, unless a call says otherwise.
        rows: number of rows of each batch; empty rows fill it up. Compilers sum in another order for another number of
            rows, and a draw between two equally likely words depends on the last bit. With a fixed number, a prompt
            gets the same text alone and among others. None takes one row per prompt: the fastest, and the same except
            for such rounding.
        frame: the ids around prompts and texts.
        layout: where the parameters live, if on several devices, which write together. Every host must make the same
            calls, and gets all texts.

    Raises:
        ValueError: the model does not read the ids of the tokenizer.
    """

    def __init__(
        self,
        config: DecoderConfig,
        params: Params | Unstacked,
        *,
        tokenizer: Tokenizer,
        sampling: Sampling | None = None,
        rows: int | None = 8,
        frame: Frame = PLAIN,
        layout: Layout = ONE_DEVICE,
    ):
        if config.vocab_size < tokenizer.vocab_size or config.pad_id != tokenizer.pad_id:
            raise ValueError(
                f"the model must read the ids of the tokenizer, got vocab_size={config.vocab_size} and "
                f"pad_id={config.pad_id}, and {tokenizer.vocab_size} and {tokenizer.pad_id} of the tokenizer."
            )
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1, or None for as many as there are, got rows={rows}.")
        self.config, self.tokenizer = config, tokenizer
        self.sampling = sampling or Sampling()
        self.frame = frame
        more = tuple(dict.fromkeys(each for each in frame.ends if each != tokenizer.eos_id))
        self._ids = Ids(tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size, more)
        self._writer = Writer(config, params, ids=self._ids, rows=rows, layout=layout)

    @staticmethod
    def load(
        run_directory: Path, *, sampling: Sampling | None = None, rows: int | None = 8, layout: Layout = ONE_DEVICE
    ) -> "Generator":
        """Returns the generator of a finished run, from the files in its directory alone.

        Args:
            sampling: None is what the run's own samples were drawn by.
            rows: see `Generator`.

        Raises:
            FileNotFoundError: the directory is not a run's, or its training has not ended.
            ValueError: the run is of another kind.
        """
        run_directory = Path(run_directory)
        saved = read_config(run_directory, family="decoder", purpose="writes text")
        path = run_directory / "config.json"
        config = read_fields(DecoderConfig, saved["model"], path=path, field="model")
        if read_field(saved, "config", "objective", kind=str | None, path=path) == "prefix":
            raise ValueError(
                f"{run_directory} must hold a model that reads prompts from left to right, got a prefix model."
            )
        first_id, separator_id = (
            read_field(saved, name, kind=int | None, path=path) for name in ("first_id", "separator_id")
        )
        end_ids = read_field(saved, "end_ids", kind=tuple[int, ...] | None, path=path) or ()
        sampling = sampling or read_sampling(run_directory)
        tokenizers = find_tokenizers(run_directory)
        if "tokenizer" not in tokenizers:
            raise FileNotFoundError(f"{run_directory} must hold a tokenizer (tokenizer.model, .vocab or .bytes).")
        definition, file = define(lambda rngs: Decoder(config, rngs=rngs)), run_directory / "model.safetensors"
        params = load_unstacked(file, definition, layout=layout)
        tokenizer = load_tokenizer(tokenizers["tokenizer"])
        return Generator(
            config,
            params,
            tokenizer=tokenizer,
            sampling=sampling,
            rows=rows,
            frame=Frame(first_id, separator_id, tuple(end_ids)),
            layout=layout,
        )

    def with_params(self, params: Params) -> "Generator":
        """Returns a generator with other parameters that shares the compiled programs."""
        other = object.__new__(Generator)
        other.__dict__.update(self.__dict__, _writer=self._writer.with_params(params))
        return other

    def without_params(self) -> "Generator":
        """Returns what is compiled, without parameters: `with_params` makes a generator of it again."""
        other = object.__new__(Generator)
        other.__dict__.update(self.__dict__, _writer=self._writer.without_params())
        return other

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_samples: int = 1,
        counts: dict[bytes, int] | None = None,
        progress: Callable[[int], None] = lambda done: None,
        **changes: Any,
    ) -> list[Generated]:
        """Continues each prompt by itself; returns the samples of the first prompt, then those of the next.

        Args:
            prompts: one, or several.
            num_samples: texts for each prompt.
            counts: number of samples that earlier calls have drawn for each prompt, by `lmx.writer.digest` of its ids,
                so that this call draws others; the call updates it.
            progress: called with the number of texts done so far.
            changes: fields of `Sampling`, for this call.

        Raises:
            ValueError: a prompt has no room for a token in the context of the model.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got num_samples={num_samples}.")
        sampling = replace(self.sampling, **changes)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = self._asked(prompts, num_samples, sampling, {} if counts is None else counts)
        found: dict[int, Generated] = {}
        for members in self._writer.groups([len(each.ids) for each in asked]):
            batch = [asked[index] for index in members]
            texts = [self._continuation(each.ids, sampling) for each in batch]
            (written,) = self._writer.write(batch, sampling, stops=_stops(texts, sampling))
            for index, each, text, said in zip(members, batch, texts, written, strict=True):
                found[index] = self._generated(prompts[index // num_samples], each, text, said, sampling)
            progress(len(found))
        return [found[index] for index in range(len(asked))]

    def stream(self, prompt: str, **changes: Any) -> Yielding[str, None, Generated]:
        """Yields a text in pieces, each as soon as nothing can change it; the text is that of `generate`.

        Args:
            changes: fields of `Sampling`, for this call.
        """
        sampling = replace(self.sampling, **changes)
        (asked,) = self._asked([prompt], 1, sampling, {})
        text, told, written = self._continuation(asked.ids, sampling), 0, Written([], np.zeros(0), False)
        for (written,) in self._writer.write([asked], sampling, stops=_stops([text], sampling), every=1):
            settled = text.settled(written.ids)
            if len(settled) > told:
                yield settled[told:]
                told = len(settled)
        found = self._generated(prompt, asked, text, written, sampling)
        if len(found.text) > told:
            yield found.text[told:]
        return found

    def logits(self, text: str) -> Float[np.ndarray, "T V"]:
        """Returns the logits of the word after each token of a text: with `frame.first`, of its first word too.

        A text is read as a prompt is, with what `frame` puts around it; an empty one after the end of another.

        Raises:
            ValueError: the text is longer than the context of the model.
        """
        ids = self._prompt_ids(text)
        self._check_length(text, len(ids), room=0)
        return self._writer.logits(ids)

    def score(self, texts: str | Sequence[str]) -> list[Scored]:
        """Returns the log-probabilities of the tokens of texts, each given those before it.

        The first token comes after `frame.first` or, without it, after the end of another text.

        Raises:
            ValueError: a text is longer than the context of the model.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        start = self.tokenizer.eos_id if self.frame.first is None else self.frame.first
        encoded = [self.tokenizer.encode(text) for text in texts]
        for text, ids in zip(texts, encoded, strict=True):
            self._check_length(text, len(ids), room=0)
        before = [[start, *ids[:-1]] for ids in encoded]
        found: dict[int, Scored] = {}
        for members in self._writer.groups([len(ids) for ids in before]):
            logprobs = self._writer.logprobs([before[i] for i in members], [encoded[i] for i in members])
            for index, row in zip(members, logprobs, strict=True):
                found[index] = Scored(texts[index], tuple(encoded[index]), tuple(map(float, row)))
        return [found[index] for index in range(len(texts))]

    def _prompt_ids(self, prompt: str) -> list[int]:
        first, separator, _ = self.frame
        ids = [*([] if first is None else [first]), *self.tokenizer.encode(prompt)]
        ids += [] if separator is None else [separator]
        return ids or [self.tokenizer.eos_id]

    def _check_length(self, text: str, length: int, *, room: int) -> None:
        most = self.config.max_length - room
        if length > most:
            what = "a prompt must leave room for a token" if room else "a text must fit"
            raise ValueError(
                f"{what} in the context of the model, so it must have at most {most:,} tokens, got {length:,} in "
                f"{text[:40]!r}. Cut it."
            )

    def _asked(self, prompts: list[str], num_samples: int, sampling: Sampling, counts: dict[bytes, int]) -> list[Asked]:
        """Returns what is to be written; equal prompts have samples of different numbers."""
        asked = []
        for prompt in prompts:
            ids = self._prompt_ids(prompt)
            self._check_length(prompt, len(ids), room=1)
            limit, said = min(sampling.max_tokens, self.config.max_length - len(ids)), digest(ids)
            for sample in range(counts.get(said, 0), counts.get(said, 0) + num_samples):
                counts[said] = sample + 1
                asked.append(Asked(ids, sample, limit))
        return asked

    def _continuation(self, ids: list[int], sampling: Sampling) -> Continuation:
        special = {self.tokenizer.pad_id, self.tokenizer.bos_id, self.tokenizer.eos_id}
        own = [index for index in ids if index not in special] if self.frame.separator is None else []
        return Continuation(self.tokenizer, own, sampling.stop, ends=self._ids.more_ends)

    def _generated(
        self, prompt: str, asked: Asked, text: Continuation, written: Written, sampling: Sampling
    ) -> Generated:
        by: StoppedBy = "max_tokens" if asked.limit == sampling.max_tokens else "context"
        if written.ids and written.ids[-1] in self._ids.ends:
            by = "end"
        if written.is_stopped:
            by = "stop"
        logprob = float(written.logprobs.sum())
        return Generated(prompt, text.text(written.ids), tuple(written.ids), logprob, by)


def read_sampling(run_directory: Path, **changes: Any) -> Sampling:
    """Returns the sampling of a run's own samples, with changes; missing fields get their defaults.

    Raises:
        FileNotFoundError: the directory is not a run's, or its training has not begun.
        ValueError: the run is of another kind, or its config.json damaged; or a change is none that can be.
    """
    saved = read_config(run_directory, family="decoder", purpose="writes text")
    path = run_directory / "config.json"
    fields = dict(read_field(saved, "config", "sampling", kind=dict | None, path=path) or {})
    return replace(read_fields(Sampling, fields, path=path, field="config.sampling"), **changes)


def _stops(texts: list[Continuation], sampling: Sampling) -> Callable[[int, list[int], int], int | None] | None:
    """Returns what looks for stop strings in the texts of a batch, or None where there are none."""
    if not sampling.stop:
        return None
    return lambda row, ids, known: texts[row].stops_after(ids, known=known)
