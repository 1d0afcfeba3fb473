"""What a step sends over a mesh is little more than it must: the benchmark's count, at a size for tests."""

import functools

import jax
import pytest

from lmx.definition import define
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.optimization import adam, constant
from lmx.plan.communication import measure_communication
from lmx.plan.figures import Job
from lmx.sharding.mesh import MeshConfig

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")

WORDS, B, T = 1024, 16, 64
SHARED = {"width": 128, "feedforward_width": 256, "num_heads": 8, "dtype": "bfloat16"}
DECODER = DecoderConfig(vocab_size=WORDS, num_layers=8, **SHARED)
SEQ2SEQ = Seq2SeqConfig(
    source_vocab_size=WORDS, target_vocab_size=WORDS, num_encoder_layers=6, num_decoder_layers=6, **SHARED
)


def job(config: DecoderConfig | Seq2SeqConfig, mesh: MeshConfig) -> Job:
    build = functools.partial(Decoder if isinstance(config, DecoderConfig) else Seq2Seq, config)
    definition = define(lambda rngs: build(rngs=rngs))

    def loss(params, batch, key):
        model = definition.merge(params)
        if isinstance(config, DecoderConfig):
            states, _ = model(batch["input"], key=key)
        else:
            memory, _ = model.encode(batch["source"], key=key)
            states, _ = model.decode(memory, batch["source"], batch["input"], key=key)
        target = batch["target"]
        return cross_entropy(
            states, model.output_table(), target, target > 0, vocab_size=WORDS, label_smoothing=0.1
        )._asdict()

    return Job(
        build=lambda rngs: build(rngs=rngs),
        loss=loss,
        optimizer=adam(constant(1e-3), clip_norm=1.0),
        mesh=mesh,
        batch=dict.fromkeys(("source", "input", "target"), (1, B, T)),
        dtype="bfloat16",
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [DECODER, SEQ2SEQ], ids=["decoder", "seq2seq"])
@pytest.mark.parametrize(
    "sizes", [{"fsdp": 8}, {"data": 8}, {"tensor": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str
)
def test_a_step_sends_at_most_a_tenth_more_than_it_must(config, sizes):
    found = measure_communication(job(config, MeshConfig(**({"data": 1} | sizes))))
    assert found.known
    assert 0.5 * found.least_total < found.counted <= 1.1 * found.least_total
