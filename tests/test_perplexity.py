"""`lmx perplexity`: every token of a text once, from what stands before it in its row, whatever rows it is cut into."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lmx.cli import main
from lmx.data.cache import Cache
from lmx.evaluation.text import LONGEST, Predicted, predict_text
from lmx.generator import Frame, Generator
from lmx.parameters import save_params
from lmx.saved import save_tokenizer, write_json
from lmx.scoring.language import Extent, LanguageScore
from tests.test_generator import CONFIG, WORDS, parameters

OFF = Cache(None)
TEXT = " ".join(f"w{number * 7 % 30}" for number in range(57))
TOKENS = 58  # with the end of the document


def make_run(folder: Path, **saved) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", {"family": "decoder", "model": vars(CONFIG), "config": {}} | saved)
    save_tokenizer(folder, WORDS)
    save_params(folder / "model.safetensors", parameters())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def measured(run: Path, text: str, **rows) -> Predicted:
    return predict_text(run, text, **({"batch_tokens": 64, "cache": OFF} | rows))


def by_hand(*, context: int, stride: int, first: int | None) -> list[float]:
    """Returns the nats of each token that is predicted, each row by itself."""
    generator = Generator(CONFIG, parameters(), tokenizer=WORDS, rows=1, frame=Frame(first))
    ids = [*WORDS.encode(TEXT), WORDS.eos_id]
    assert len(ids) == TOKENS
    nats: list[float] = []
    known = 0 if first is not None else 1  # tokens before the next to be predicted
    for begin in range(0, len(ids), stride):
        row = ids[begin : begin + context + (first is None)]
        reads = row[:-1]
        logits = generator.logits(" ".join(WORDS.pieces(reads))) if reads else generator.logits("")
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for place, word in enumerate(row[1:] if first is None else row):
            if begin + place + (first is None) >= known:
                nats.append(-float(logits[place, word]))
                known += 1
    return nats


@pytest.mark.parametrize("first", [None, WORDS.bos_id])
@pytest.mark.parametrize(("context", "stride"), [(26, 26), (20, 5), (12, 1), (8, 8)])
def test_each_token_is_predicted_once_from_its_row(text: str, tmp_path: Path, context: int, stride: int, first):
    config = {} if first is None else {"first_id": first}
    found = measured(make_run(tmp_path / "run", **config), text, context=context, stride=stride)
    nats = by_hand(context=context, stride=stride, first=first)
    assert len(nats) == TOKENS - (first is None)
    assert found.scores.loss == pytest.approx(np.mean(nats), rel=1e-5)
    assert found.scores.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert found.extent.tokens == TOKENS
    assert (found.context, found.stride, found.first, found.unknown) == (context, stride, first, 0)


def test_what_is_not_said_is_as_in_the_run(run: Path, text: str, tmp_path: Path):
    assert LONGEST == 2048  # as the help says
    plain = measured(run, text)
    assert (plain.context, plain.stride) == (26, 26)  # the model's longest
    trained = make_run(tmp_path / "run", config={"context": 12, "stride": 6, "objective": "causal"})
    assert [
        (found.context, found.stride) for found in (measured(trained, text), measured(trained, text, stride=4))
    ] == [
        (12, 6),
        (12, 4),
    ]
    beside = measured(trained, text, context=20)
    assert (beside.context, beside.stride) == (20, 20)  # another length: not the run's stride
    assert beside.scores.loss == pytest.approx(measured(run, text, context=20).scores.loss)


@pytest.mark.parametrize("first", [None, WORDS.bos_id])
def test_documents_are_predicted_apart_where_the_run_learned_them_so(tmp_path: Path, first):
    lines = [" ".join(f"w{number * place % 30}" for place in range(1, number)) for number in (3, 9, 14, 6)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = {} if first is None else {"first_id": first}
    trained = make_run(tmp_path / "run", config={"context": 20, "packing": "documents"}, **said)
    found = measured(trained, f"lines:{tmp_path / 'lines.txt'}")
    generator = Generator(CONFIG, parameters(), tokenizer=WORDS, rows=1, frame=Frame(first))
    nats: list[float] = []
    for line in lines:
        logits = generator.logits(line)
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        words = [*WORDS.encode(line), WORDS.eos_id][int(first is None) :]
        nats += [-float(logits[place, word]) for place, word in enumerate(words)]
    assert found.scores.loss == pytest.approx(np.mean(nats), rel=1e-5)
    assert (found.context, found.stride) == (20, None)
    with pytest.raises(ValueError, match=r"packing must be stream where a stride is given, got packing=documents\."):
        measured(trained, f"lines:{tmp_path / 'lines.txt'}", stride=4)


def test_unknown_words_are_counted(run: Path, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text(" ".join(["w1", "nobody", "knows"] * 10), encoding="utf-8")
    arguments = ["lmx", "perplexity", str(run), str(tmp_path / "text.txt"), "--text-cache", "off"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    out, err = capsys.readouterr()
    assert "warning: 20 tokens (64.5%) stand for what the vocabulary does not have" in err
    assert out.splitlines()[-1] == "rows of 26 tokens that begin 26 apart"


def test_the_command_prints_what_is_measured(run: Path, text: str, monkeypatch, capsys):
    options = [str(run), text, "--context", "20", "--stride", "5", "--text-cache", "off"]
    monkeypatch.setattr("sys.argv", ["lmx", "perplexity", *options])
    main()
    found = measured(run, text, context=20, stride=5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{text}: 58 tokens, 57 words, {len(TEXT)} bytes"
    name, value, *unit = lines[1].split()
    assert (name, unit) == ("perplexity", ["of", "a", "token"])
    assert float(value) == pytest.approx(found.scores.perplexity, rel=1e-5)
    assert lines[3].startswith(f"bits per byte        {found.scores.bits_per_byte:.4f}")
    assert lines[5] == "rows of 20 tokens that begin 5 apart"
    monkeypatch.setattr("sys.argv", ["lmx", "perplexity", *options, "--json"])
    main()
    said = json.loads(capsys.readouterr().out)
    assert said["loss"] == pytest.approx(found.scores.loss)
    assert (said["text"], said["tokens"], said["context"], said["stride"], said["first_id"]) == (text, 58, 20, 5, None)


def test_a_command_says_how_rows_were_read_and_writes_json_for_any_reader(monkeypatch, capsys):
    scores, extent = LanguageScore(800.0, math.inf, math.inf, 9.5), Extent(1234, 56, 7890)
    found = Predicted(scores, extent, unknown=0, origin="o", context=2048, stride=None, first=1)
    monkeypatch.setattr("lmx.evaluation.text.predict_text", lambda *_, **__: found)
    monkeypatch.setattr("sys.argv", ["lmx", "perplexity", "run", "text"])
    main()
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "o: 1,234 tokens, 56 words, 7,890 bytes"
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "perplexity",
        "perplexity of words",
        "bits per byte",
        "loss",
    ]
    assert lines[5] == "rows of 2,048 tokens that hold whole documents, each read after the id 1"
    assert printed.err.startswith("1,234 tokens in ")
    monkeypatch.setattr("sys.argv", ["lmx", "perplexity", "run", "text", "--json"])
    main()
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (said["loss"], said["perplexity"], said["bits_per_byte"]) == (800, None, 9.5)
    assert (said["words"], said["bytes"], said["unknown"]) == (56, 7890, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "0"], "context must be from 1 to the model's 26 tokens, got context=0."),
        (["--context", "27"], "context must be from 1 to the model's 26 tokens, got context=27."),
        (["--context", "20", "--stride", "21"], "stride must be from 1 to context=20, got stride=21."),
        (["--batch-tokens", "25"], "batch_tokens must be at least a row of 26 tokens, got batch_tokens=25."),
        (["PREFIX"], "must be a run of objective=causal, got objective=prefix."),
        (["NOWHERE"], "nowhere.txt must exist"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(options, message, run, text, tmp_path, monkeypatch, capsys):
    if options == ["PREFIX"]:
        run, options = make_run(tmp_path / "prefix", config={"objective": "prefix"}), []
    if options == ["NOWHERE"]:
        text, options = "nowhere.txt", []
    monkeypatch.setattr("sys.argv", ["lmx", "perplexity", str(run), text, *options, "--text-cache", "off"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
