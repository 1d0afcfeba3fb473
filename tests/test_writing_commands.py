"""`lmx generate` and `lmx fill`: what is asked and read, and what is written for people and for programs."""

import dataclasses
import gzip
import io
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.fill_mask import FillMask
from lmx.generator import Generated, Generator
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.parameters import save_params
from lmx.sampling import Sampling
from lmx.saved import save_tokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer
from lmx.writing_commands import BETWEEN, Found, as_text, on_one_line, readable

BYTES = ByteTokenizer()
SIZES = {"width": 16, "feedforward_width": 12, "num_heads": 2, "num_layers": 1}
DECODER = DecoderConfig(vocab_size=BYTES.vocab_size, max_length=40, **SIZES)
WORDS = PretokenizedTokenizer([f"w{i}" for i in range(30)])
MASK_ID = WORDS.vocab_size
ENCODER = MaskedConfig(vocab_size=MASK_ID + 1, max_length=20, norm_position="pre", **SIZES)


def drawn(make, *, deviation: float) -> dict:
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))), nnx.Param))
    generator = np.random.default_rng(2)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, deviation, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_run(directory: Path, *, family: str, model, params, tokenizer, **decided) -> Path:
    facts = {"family": family, "model": dataclasses.asdict(model), **decided}
    (directory / "config.json").write_text(json.dumps(facts))
    save_params(directory / "model.safetensors", params)
    save_tokenizer(directory, tokenizer)
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    params = drawn(lambda rngs: Decoder(DECODER, rngs=rngs), deviation=0.3)
    sampling = dataclasses.asdict(Sampling(max_tokens=9, seed=4))
    directory = tmp_path_factory.mktemp("decoder")
    kept = {"config": {"sampling": sampling}}
    return write_run(directory, family="decoder", model=DECODER, params=params, tokenizer=BYTES, **kept)


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory) -> Path:
    params = drawn(lambda rngs: MaskedEncoder(ENCODER, rngs=rngs), deviation=0.5)
    directory = tmp_path_factory.mktemp("masked")
    return write_run(directory, family="masked", model=ENCODER, params=params, tokenizer=WORDS, mask_id=MASK_ID)


@pytest.fixture(scope="module")
def generator(run) -> Generator:
    return Generator.load(run)


PROMPTS = ["ab", "c d", ""]


def records(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines]


def as_records(texts) -> list[dict]:
    return [json.loads(json.dumps(dataclasses.asdict(text))) for text in texts]


def test_prompts_come_from_the_command_line_a_file_or_a_pipe(run, lmx, generator, tmp_path):
    expected = as_records(generator.generate(PROMPTS))
    lines, said = lmx("generate", run, "--json", "--prompt", *PROMPTS)
    assert records(lines) == expected
    assert "3 texts, " in said
    assert "(temperature 1, seed 4)" in said
    given = "\n".join(PROMPTS) + "\n"
    assert records(lmx("generate", run, "--json", "--prompt-file", "-", given=given.encode())[0]) == expected
    packed = tmp_path / "prompts.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps({"prompt": each}) + "\n" for each in PROMPTS).encode()))
    output = tmp_path / "texts.jsonl"
    assert lmx("generate", run, "--json", "--prompt-file", packed, "--output", output)[0] == []
    assert records(output.read_text().splitlines()) == expected


def test_equal_prompts_get_other_samples_also_in_other_blocks(run, lmx, generator, monkeypatch):
    monkeypatch.setattr("lmx.data.files.BLOCK", 2)
    found = records(lmx("generate", run, "--json", "--prompt-file", "-", given=b"ab\nab\nab\n")[0])
    assert found == as_records(generator.generate("ab", num_samples=3))
    assert len({tuple(each["tokens"]) for each in found}) == 3
    lines, _ = lmx("generate", run, "--json", "--prompt", "ab", "--num-samples", "3")
    assert records(lines) == found


def test_what_is_asked_takes_the_place_of_what_the_run_says(run, lmx, generator):
    flags = "--temperature 0.7 --top-k 20 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.2 --no-repeat 3 --seed 8"
    flags += " --max-tokens 5 --min-tokens 2"
    expected = generator.generate(
        "ab", temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2, no_repeat=3, seed=8,
        max_tokens=5, min_tokens=2,
    )  # fmt: skip
    lines, said = lmx("generate", run, "--json", "--prompt", "ab", *flags.split())
    assert records(lines) == as_records(expected)
    assert "(temperature 0.7, top-k 20, top-p 0.9, min-p 0.01, seed 8)" in said


def test_what_a_run_has_saved_can_be_taken_off(lmx, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lmx.generator.Generator.load", lambda run, *, sampling, **_: asked.append(sampling) or 1 / 0)
    saved = {"top_k": 5, "no_repeat": 2, "min_p": 0.1, "top_p": 0.9, "temperature": 0.5}
    (tmp_path / "config.json").write_text(json.dumps({"family": "decoder", "model": {}, "config": {"sampling": saved}}))
    off = "--top-k 0 --no-repeat 0 --min-p 0 --top-p 1"
    for flags, left in (("", saved), (off, {"temperature": 0.5, "top_p": 1.0})):
        with pytest.raises(ZeroDivisionError):
            lmx("generate", tmp_path, *flags.split())
        assert asked.pop() == Sampling(**left)


def test_prompts_are_counted_in_few_bytes(generator):
    """A million long prompts take no more room than short ones; equal prompts still get other samples."""
    counts: dict[bytes, int] = {}
    texts = generator.generate(["ab", "x" * 30, "ab"], counts=counts)
    assert sorted(counts.values()) == [1, 2]
    assert {len(each) for each in counts} == {8}
    (again,) = generator.generate("ab", counts={next(key for key, number in counts.items() if number == 2): 1})
    assert again == texts[2] != texts[0]


def test_a_stop_string_that_is_never_met_is_told(run, lmx, generator):
    (free,) = generator.generate("ab", min_tokens=9)
    lines, said = lmx("generate", run, "--json", "--prompt", "ab", "--min-tokens", "9", "--stop", "never", "nor this")
    assert records(lines) == as_records([free])
    assert ", 1 met no stop string and ended after 9 tokens" in said
    lines, said = lmx("generate", run, "--json", "--prompt", "ab", "--min-tokens", "9", "--stop", free.text[3:5])
    assert records(lines)[0]["stopped_by"] == "stop"
    assert "stop string" not in said
    long = "x" * 38
    assert lmx("generate", run, "--prompt", long, "--min-tokens", "9")[1].endswith(
        ", 1 ended with the model's context of 40 tokens\n"
    )


def test_the_last_line_counts_texts_tokens_and_their_ends(generator):
    def text(number: int, ended: str) -> Generated:
        return Generated(prompt="", text="", tokens=(5,) * number, logprob=0.0, stopped_by=ended)

    found = Found()
    found.add([text(700, "max_tokens"), text(2, "end")])
    found.add([text(500, "max_tokens"), text(40, "context"), text(3, "stop")])
    assert found.account(generator, seconds=3.2) == (
        "5 texts, 1,245 tokens in 3 s (temperature 1, seed 4), 2 ended after 9 tokens, "
        "1 ended with the model's context of 40 tokens"
    )


def test_people_get_prompt_and_text(run, lmx, generator):
    texts = generator.generate(PROMPTS)
    lines, _ = lmx("generate", run, "--prompt", *PROMPTS)
    assert lines == as_text(texts, is_first=True)
    assert lines.count(BETWEEN) == 2
    parts = "\n".join(lines).split(f"\n{BETWEEN}\n")
    assert parts == [readable(text.prompt + text.text) for text in texts]


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it, and when."""

    def __init__(self):
        super().__init__()
        self.flushed: list[str] = []

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def test_a_terminal_gets_one_text_piece_by_piece(run, lmx, generator, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    _, said = lmx("generate", run, "--prompt", "ab")
    (text,) = generator.generate("ab")
    assert terminal.getvalue() == readable("ab" + text.text) + "\n"
    assert len(set(terminal.flushed)) > 4
    assert "1 text, " in said


def test_what_a_model_writes_does_nothing_to_a_terminal():
    assert readable("a\tb\nc\x1b[2J\x7f\x9b\r\u2028é") == "a\tb\nc\\x1b[2J\\x7f\\x9b\\r\\u2028é"
    for text in ("a\nb\u2028c\x85\x1b", "é\x7f"):
        line = on_one_line({"text": text})
        assert len(line.splitlines()) == 1
        assert json.loads(line) == {"text": text}


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (
            ["--prompt", "x" * 40],
            b"",
            r"a prompt must leave room for a token in the context of the model, .* got 40 in",
        ),
        (["--prompt", "a", "--prompt-file", "b"], b"", "prompt and prompt_file must not be given together, got"),
        (["--num-samples", "0"], b"", "num_samples must be at least 1, got num_samples=0."),
        (["--top-p", "2"], b"", "top_p must be over 0 and at most 1, got top_p=2.0."),
        (["--rows", "0"], b"", "rows must be at least 1, or None for as many as there are, got rows=0."),
        (["--stop", ""], b"", r"stop must be a tuple of texts that are not empty, got stop=\(''"),
        (["--prompt-file", "-"], b"a\n\xff\n", "standard input:2 must be UTF-8, got byte 0xff"),
        (["--prompt-file", "no.txt"], b"", "no.txt must exist"),
        (["--prompt-file", "bad.jsonl"], b"", "bad.jsonl:2 must be a JSON object with a text in prompt, got"),
    ],
    ids=lambda value: None,
)
def test_bad_input_is_one_line(run, lmx, capsys, monkeypatch, tmp_path, arguments, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(SystemExit) as stopped:
        lmx("generate", run, *arguments, given=given)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert re.search(message, said), said


# Gaps.


logits_of = jax.jit(lambda model, tokens: model.logits(model(tokens)[0]))


def test_gaps_get_the_likeliest_words(masked_run, lmx):
    filler = FillMask.load(masked_run)
    texts = ["w1 [MASK] w3", "[MASK] w4 w5 [MASK]"]
    found = filler.fill(texts, top_k=3)
    assert [len(gaps) for gaps in found] == [1, 2]
    definition = nnx.graphdef(nnx.eval_shape(lambda: MaskedEncoder(ENCODER, rngs=nnx.Rngs(0))))
    model = nnx.merge(definition, drawn(lambda rngs: MaskedEncoder(ENCODER, rngs=rngs), deviation=0.5))
    for text, gaps in zip(texts, found, strict=True):
        ids = [MASK_ID if word == "[MASK]" else WORDS.encode(word)[0] for word in text.split()] + [WORDS.eos_id]
        likely = np.asarray(jax.nn.softmax(logits_of(model, np.array([ids], np.int32))[0]))
        for gap, place in zip(gaps, [i for i, each in enumerate(ids) if each == MASK_ID], strict=True):
            best = np.argsort(-likely[place, : WORDS.vocab_size])[:3]
            assert [word.piece for word in gap] == WORDS.pieces(best.tolist())
            np.testing.assert_allclose([word.probability for word in gap], likely[place][best], rtol=1e-4)
    lines, _ = lmx("fill", masked_run, "--text", *texts, "--top-k", "3")
    assert lines[0] == texts[0]
    assert lines[1] == f"  {found[0][0][0].probability:.4f}  {found[0][0][0].word}"
    assert [line for line in lines if line.startswith("gap")] == ["gap 1:", "gap 2:"]
    lines, _ = lmx("fill", masked_run, "--top-k", "3", "--json", given="\n".join(texts).encode())
    assert records(lines) == [
        {"text": text, "gaps": [[dataclasses.asdict(word) for word in gap] for gap in gaps]}
        for text, gaps in zip(texts, found, strict=True)
    ]


def test_texts_that_cannot_be_filled_are_told(masked_run, run):
    filler = FillMask.load(masked_run)
    assert filler._encode("[MASK] " * 19) == [MASK_ID] * 19 + [WORDS.eos_id]  # as long as can be
    begun = FillMask(ENCODER, {}, tokenizer=WORDS, mask_id=MASK_ID, first_id=WORDS.bos_id)
    assert begun._encode("w1 [MASK]") == [WORDS.bos_id, *WORDS.encode("w1"), MASK_ID, WORDS.eos_id]
    for text, message in (
        ("w1 w2", r"^a text must have a gap, \[MASK\], got 'w1 w2'\.$"),
        ("[MASK] " * 20, r"^a text must have at most 20 tokens, its end included, got 21 in '\[MASK\] \[MASK\]"),
    ):
        with pytest.raises(ValueError, match=message):
            filler.fill(text)
    with pytest.raises(ValueError, match=r"^top_k must be at least 1, got top_k=0\.$"):
        filler.fill("[MASK]", top_k=0)
    with pytest.raises(ValueError, match=r"must hold a model that fills in masked words, got family=decoder\.$"):
        FillMask.load(run)
    with pytest.raises(ValueError, match=r"must hold a model that writes text, got family=masked\.$"):
        Generator.load(masked_run)
    with pytest.raises(
        ValueError, match=r"^the model must read the ids of the tokenizer and the mask, got vocab_size=35"
    ):
        FillMask(ENCODER, {}, tokenizer=WORDS, mask_id=35)
