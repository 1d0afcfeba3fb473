"""Batch k is a function of (seed, k): each token comes once an epoch, and once in evaluation."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmx.data.objectives.causal import causal, prefix
from lmx.data.shards import TokenCorpus
from lmx.data.windows import Windows, facts
from lmx.kernel_facts import told_of_rows
from lmx.loop import Batches
from tests.data.test_packing import corpus_of

A, B, L = 3, 4, 10


@pytest.fixture(params=["stream", "documents"])
def packing(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def corpus() -> TokenCorpus:
    return corpus_of(np.random.default_rng(1).integers(2, 35, 150), shards=2)


def windows(corpus: TokenCorpus, packing: str, **options) -> Windows:
    return Windows(corpus, **({"length": L, "rows": B, "accumulation": A, "seeds": (5,), "packing": packing} | options))


def test_it_is_what_training_loops_over(corpus: TokenCorpus, packing: str):
    made = windows(corpus, packing)
    assert isinstance(made, Batches)
    assert made.shapes == [(A, B, L)]
    batch = made.batch(7)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == dict.fromkeys(
        ("tokens", "segments", "positions"), ((A, B, L + 1), np.int32)
    )
    assert made.tokens(7) == (batch["segments"][..., :L] > 0).sum()


@pytest.mark.parametrize("make", [None, functools.partial(causal, pad_id=0), functools.partial(prefix, pad_id=0)])
def test_names_are_those_of_what_the_objective_makes_and_say_what_models_are_told(corpus, packing, make):
    made = windows(corpus, packing, make=make)
    assert set(made.names) == set(made.batch(0))
    packed = ("segments",) if packing == "documents" else ()
    assert told_of_rows(made) == packed + (("prefix",) if "prefix" in made.batch(0) else ())
    assert told_of_rows(object()) == ()  # sentences in buckets are neither


def test_a_batch_is_a_function_of_seed_and_number(corpus: TokenCorpus, packing: str):
    made = windows(corpus, packing)
    later = made.batch(400)
    made.batch(2)
    for again in (made, windows(corpus, packing)):
        assert all(np.array_equal(array, again.batch(400)[name]) for name, array in later.items())
    for other in (made.batch(401), windows(corpus, packing, seeds=(6,)).batch(400)):
        assert not np.array_equal(later["tokens"], other["tokens"])


def test_an_epoch_of_a_stream_holds_each_token_once(corpus: TokenCorpus):
    made = windows(corpus, "stream", rows=1, accumulation=1)
    number, size = int(made.batches_per_epoch), corpus.num_tokens
    begins = []
    for epoch in range(2):
        labels = np.concatenate(
            [made.batch(k)["tokens"][0, 0, 1:] for k in range(epoch * number, (epoch + 1) * number)]
        )
        assert len(set(labels.tolist())) == len(labels) == size // L * L
        begins.append(np.sort(labels)[0] if len(labels) == size else np.setdiff1d(np.arange(1, size + 1), labels)[0])
    assert begins[0] != begins[1]  # another cut
    row = made.batch(0)
    assert (np.diff(row["tokens"]) % size == 1).all()
    assert row["segments"].all()
    assert row["positions"][0, 0].tolist() == list(range(L + 1))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_each_host_makes_its_rows_alone(corpus: TokenCorpus, packing: str, hosts: int):
    made, whole = windows(corpus, packing, seeds=(5, 7)), windows(corpus, packing, seeds=(5, 7)).batch(9)
    part = B // hosts
    parts = [made.batch(9, lambda rows, host=host: slice(host * part, (host + 1) * part)) for host in range(hosts)]
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([each[name] for each in parts], axis=2))
    assert np.array_equal(made.batch(9, np.array([3, 0]))["tokens"], whole["tokens"][:, :, [3, 0]])


def test_seeds_that_train_together_see_what_each_sees_alone(corpus: TokenCorpus, packing: str):
    both = windows(corpus, packing, seeds=(5, 7))
    batch = both.batch(3)
    assert batch["tokens"].shape == (2, A, B, L + 1)
    alone = [windows(corpus, packing, seeds=(seed,)) for seed in (5, 7)]
    for number, each in enumerate(alone):
        assert all(np.array_equal(array, batch[name][number]) for name, array in each.batch(3).items())
    assert both.tokens(3) == sum(each.tokens(3) for each in alone)


def test_an_objective_gets_the_seed_and_the_number_of_each_row(corpus: TokenCorpus, packing: str):
    asked = []

    def make(raw, key):
        asked.append(key)
        return {"first": raw["tokens"][..., 0]}

    made = windows(corpus, packing, seeds=(5, 7), make=make)
    assert made.batch(2, slice(1, 3))["first"].shape == (2, A, 2)
    (first, numbers), (second, _) = asked
    assert (first, second) == (5, 7)
    assert numbers.tolist() == [[2 * A * B + micro * B + row for row in (1, 2)] for micro in range(A)]


def test_epochs_begin_where_they_end(corpus: TokenCorpus, packing: str):
    made = windows(corpus, packing, rows=7, accumulation=1)
    for epoch in range(4):
        first = made.first_batch(epoch)
        assert made.epoch_of(first) == epoch
        assert first == 0 or made.epoch_of(first - 1) == epoch - 1
    assert made.epochs_before(made.first_batch(3)) == pytest.approx(3, abs=0.2)
    assert made.epochs_before(5) == round(35 / made.numbered[0].rows_per_epoch, 4)
    assert made.batches_per_epoch == made.numbered[0].rows_per_epoch / 7


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("size", [11, 12, 61, 400])
def test_evaluation_predicts_each_token_once(packing: str, size: int, ahead: int):
    corpus = corpus_of(np.array([size - 8, 8]))
    batches = list(windows(corpus, packing, ahead=ahead).once(fill_multiple=6))
    assert {batch["tokens"].shape for batch in batches} == {(6, L + ahead)}
    raw = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    labels, here = raw["tokens"], raw["segments"] > 0
    if ahead:
        here = (raw["segments"][:, 1:] == raw["segments"][:, :-1]) & here[:, 1:]
        labels = labels[:, 1:]
    expected = np.arange(1, size + 1)
    if ahead:  # what nothing stands before
        expected = expected[~np.isin(expected, [1] if packing == "stream" else [1, size - 7])]
    assert np.array_equal(np.sort(labels[here]), expected)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("stride", [1, 4, 9, L])
@pytest.mark.parametrize("size", [11, 12, 61, 400])
def test_with_a_stride_each_token_is_predicted_once_and_from_enough_before_it(size: int, stride: int, ahead: int):
    made = windows(corpus_of(np.array([size - 8, 8])), "stream", ahead=ahead).overlapping(stride)
    batches = list(made.once(fill_multiple=6))
    raw = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    here = (raw["segments"] > 0) & (raw.get("counts", raw["segments"]) > 0)
    here[:, :ahead] = False
    assert np.array_equal(np.sort(raw["tokens"][here]), np.arange(1 + ahead, size + 1))
    rows, places = np.nonzero(here)
    assert (places[rows > 0] >= L - stride + ahead).all()
    beside = windows(corpus_of(np.array([size - 8, 8])), "stream", ahead=ahead)
    assert np.array_equal(made.batch(3)["tokens"], beside.batch(3)["tokens"])  # training knows no stride
    labels = np.concatenate([causal(batch, pad_id=0, start_id=None if ahead else 1)["labels"] for batch in batches])
    assert np.array_equal(np.sort(labels[labels >= 0]), np.arange(1 + ahead, size + 1))


@pytest.mark.parametrize(("stride", "packing"), [(0, "stream"), (L + 1, "stream"), (4, "documents")])
def test_a_stride_that_cannot_be_is_refused(corpus: TokenCorpus, stride: int, packing: str):
    with pytest.raises(
        ValueError, match=f"from 1 to length=10, and of rows of a stream, got stride={stride} and packing={packing}"
    ):
        windows(corpus, packing).overlapping(stride)


def test_hosts_evaluate_their_rows(corpus: TokenCorpus, packing: str):
    whole = [batch["tokens"] for batch in windows(corpus, packing).once(fill_multiple=4)]
    second = [
        batch["tokens"] for batch in windows(corpus, packing).once(lambda rows: slice(rows // 2, rows), fill_multiple=4)
    ]
    assert all(np.array_equal(array[2:], part) for array, part in zip(whole, second, strict=True))


def test_what_a_run_says_of_its_rows(corpus: TokenCorpus):
    number = corpus.num_tokens // L / (A * B)
    assert facts(windows(corpus, "stream")) == {"rows": f"of 10 tokens, {number:,.1f} batches an epoch"}
    said = facts(windows(corpus, "documents"))["packing"]
    assert re.fullmatch(r"\d\d\.\d% full, of a first pool of documents \d+\.\d% were cut to fill gaps", said)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"length": 200}, r"a corpus must hold a row of 201 tokens, got 30\. Take shorter rows or more text\."),
        ({"rows": 0}, r"rows must be at least 1, got rows=0\."),
        ({"seeds": (1, 1)}, r"seeds must be one or more that differ, got seeds=\(1, 1\)\."),
    ],
)
def test_rows_that_cannot_be_made_are_refused(options: dict, expected: str):
    for packing in ("stream", "documents"):
        with pytest.raises(ValueError, match=expected):
            windows(corpus_of(np.array([30])), packing, **options)
    with pytest.raises(ValueError, match=r"k must not be negative, got k=-1\."):
        windows(corpus_of(np.array([30])), "stream").batch(-1)


LIMITED = """
import re, resource, sys
from pathlib import Path
import numpy as np
from lmx.data.cache import Cache
from lmx.data.corpus import encode_corpus, find_corpus
from lmx.data.windows import Windows
from lmx.text import ByteTokenizer

files = find_corpus(sys.argv[1])
status = Path("/proc/self/status").read_text()
more = int(sys.argv[3])
limit = 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1]) + more
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(2 * more, np.uint8)
except MemoryError:
    print("limited")
corpus = encode_corpus(files, ByteTokenizer(), cache=Cache(Path(sys.argv[2])), num_processes=1)
size = sum(shard.tokens.nbytes for shard in corpus.shards)
assert size > 2 * more, size
for packing in ("stream", "documents"):
    windows = Windows(corpus, length=512, rows=64, packing=packing)
    seen = sum(int((windows.batch(k)["segments"] > 0).sum()) for k in range(int(windows.batches_per_epoch)))
    print(packing, seen / corpus.num_tokens)
"""


@pytest.mark.slow
def test_a_corpus_may_be_larger_than_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(24_000):
            file.write(f'{{"text": "{f"{number} " * (number % 500)}"}}\n')
    command = [sys.executable, "-c", LIMITED, str(path), str(tmp_path / "cache"), str(28 << 20)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    limited, *shares = done.stdout.split("\n")[:3]
    assert limited == "limited"
    assert all(0.98 < float(line.split()[1]) < 1.01 for line in shares)


def test_an_objective_gets_rows_numbered_from_the_first_in_evaluation(corpus: TokenCorpus, packing: str):
    asked = []

    def make(raw, key):
        asked.append(key)
        return raw

    made = windows(corpus, packing, seeds=(5,), make=make)
    list(made.once(fill_multiple=3))
    list(made.once(slice(1, 3)))
    assert {seed for seed, _ in asked} == {0}
    numbers = [found.tolist() for _, found in asked]
    assert numbers[:2] == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]  # of a batch of four, two fill it up
    second = numbers[len(numbers) // 2 :]
    assert second[:2] == [[1, 2], [5, 6]]


def test_the_share_of_packed_places_is_told_of_all_sources(corpus: TokenCorpus):
    made = windows(corpus, "documents")
    (rows,) = made.numbered
    full, cut = corpus.num_tokens / (rows.rows_per_epoch * (L + 1)), rows.share_cut()
    assert facts(made)["packing"].startswith(f"{full:.1%} full, of a first pool of documents {cut:.1%} were cut")
    assert 0 < cut < 1
    assert rows.efficiency == full


@pytest.mark.parametrize("name", ["length", "accumulation", "ahead"])
def test_what_a_row_is_made_of_is_at_least_so_much(corpus: TokenCorpus, name: str):
    wrong, shown = (-1, 0) if name == "ahead" else (0, 0)
    with pytest.raises(ValueError, match=rf"{name} must be at least 1, got {name}={shown}\."):
        windows(corpus, "stream", **{name: wrong})
