"""A new position encoding is its own file and its name: added to a copy of the library, it trains and decodes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILE = '''"""Positions by recency: a learned weight, in each head, for how near a key is."""

import jax.numpy as jnp
from flax import nnx

from lmx.nn.positions.encoding import PositionalEncoding


class Recency(PositionalEncoding):
    """Adds weight / (1 + distance) to the scores."""

    def __init__(self, num_heads):
        self.weight = nnx.Param(jnp.ones(num_heads), axes=("heads",))

    def bias(self, queries, keys):
        """Returns the bias."""
        distances = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
        return self.weight[...][:, None, None] / (1 + distances)
'''
# What is changed in the one file that knows the names.
NAME = [
    (
        "from lmx.nn.positions.t5 import",
        "from lmx.nn.positions.recency import Recency\nfrom lmx.nn.positions.t5 import",
    ),
    ('"alibi", "t5"]', '"alibi", "t5", "recency"]'),
    (
        '        case "alibi":\n',
        '        case "recency":\n            return Recency(config.num_heads)\n        case "alibi":\n',
    ),
]
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
import lmx
from lmx.decoding import SpecialIds, greedy_search
from lmx.losses import cross_entropy
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.training import create_state, make_train_step

config = Seq2SeqConfig(
    source_vocab_size=20, target_vocab_size=20, width=16, feedforward_width=16, num_heads=2, num_encoder_layers=1,
    num_decoder_layers=1, positions="recency", dropout_rate=0.0,
)
definition, params = nnx.split(Seq2Seq(config, rngs=nnx.Rngs(0)))
params = nnx.to_pure_dict(params)


def loss(params, batch, key):
    model = nnx.merge(definition, params)
    memory, _ = model.encode(batch["source"], key=key)
    states, _ = model.decode(memory, batch["source"], batch["source"], key=key)
    found = cross_entropy(states, model.output_table(), batch["target"], batch["target"] > 0, vocab_size=20)
    return {"loss": found.loss, "weight": found.weight}


optimizer = optax.sgd(0.1)
state = create_state(params, optimizer, seed=0)
before = {name: np.asarray(params[name]["weight"]) for name in ("source_positions", "target_positions")}
words = np.random.default_rng(0).integers(3, 20, (1, 4, 7)).astype(np.int32)
state, _ = jax.jit(make_train_step(loss, optimizer))(state, {"source": words, "target": words})
for name, weight in before.items():
    assert np.abs(np.asarray(state.params[name]["weight"]) - weight).min() > 0, name


@jax.jit
def decode(params, source):
    step, cache = nnx.merge(definition, params).start_decoding(source, slots=5)
    return greedy_search(step, cache, active=jnp.ones(4, bool), max_length=5, ids=SpecialIds(pad=0, bos=1, eos=2))


@jax.jit
def decode_without_cache(params, source):
    model = nnx.merge(definition, params)
    memory, _ = model.encode(source)
    tokens = jnp.full((4, 6), 1)
    for time in range(5):
        logits = model.logits(model.decode(memory, source, tokens[:, :5])[0])[:, time, 2:]
        tokens = tokens.at[:, time + 1].set(2 + logits.argmax(-1))
    return tokens[:, 1:]


found, expected = np.asarray(decode(state.params, words[0])), np.asarray(decode_without_cache(state.params, words[0]))
expected = np.where(np.cumsum(expected == 2, axis=1) - (expected == 2) > 0, 0, expected)
np.testing.assert_array_equal(found[:, :4], expected[:, :4])
print("trained", lmx.__file__)
"""


def test_a_new_position_encoding_is_its_file_and_its_name(tmp_path: Path):
    shutil.copytree(ROOT / "lmx", tmp_path / "lmx", ignore=shutil.ignore_patterns("__pycache__"))
    positions = tmp_path / "lmx" / "nn" / "positions"
    (positions / "recency.py").write_text(FILE, encoding="utf-8")
    text = (positions / "make.py").read_text(encoding="utf-8")
    for old, new in NAME:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (positions / "make.py").write_text(text, encoding="utf-8")

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == ["trained", str(tmp_path / "lmx" / "__init__.py")]
