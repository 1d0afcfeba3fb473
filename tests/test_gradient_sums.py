"""Devices add up gradients in float32, also of a model that computes in bfloat16; what is sent forward is bfloat16.

Types are read in the program right after partitioning: XLA's CPU backend makes float32 of bfloat16 collectives later.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.collectives import read_collectives
from lmx.costs import count_flops
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import Encoder, EncoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.layers import Linear
from lmx.nn.vocabulary import look_up
from lmx.optimization import adam, constant
from lmx.plan.communication import summarize_communication
from lmx.plan.figures import Job
from lmx.plan.step import program_of
from lmx.plan.tables import communication_table
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import named_sharding, replicated
from lmx.sharding.products import joint_product
from lmx.sharding.step import use_mesh

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")

WORDS, B, T, D = 256, 16, 8, 32
SHARED = {"width": D, "feedforward_width": 64, "num_heads": 4, "dtype": "bfloat16", "use_bias": True}
CONFIGS = {
    "decoder": (Decoder, DecoderConfig(vocab_size=WORDS, num_layers=2, num_kv_heads=2, **SHARED)),
    "seq2seq": (
        Seq2Seq,
        Seq2SeqConfig(
            source_vocab_size=WORDS, target_vocab_size=WORDS, num_encoder_layers=2, num_decoder_layers=2, **SHARED
        ),
    ),
    "encoder": (
        Encoder,
        EncoderConfig(vocab_size=WORDS, num_layers=2, num_types=2, positions="learned", max_length=2 * T, **SHARED),
    ),
}


def job_of(family: str, **sizes: int) -> Job:
    model, config = CONFIGS[family]
    definition = nnx.graphdef(nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0))))

    def loss(params, batch, key):
        network = nnx.merge(definition, params)
        tokens = batch["tokens"]
        if family == "seq2seq":
            memory, _ = network.encode(tokens, key=key)
            states, _ = network.decode(memory, tokens, tokens, key=key)
        else:
            states, _ = network(tokens, key=key)
        return cross_entropy(states, network.output_table(), tokens, tokens > 0, vocab_size=WORDS)._asdict()

    return Job(
        build=lambda rngs: model(config, rngs=rngs),
        loss=loss,
        optimizer=adam(constant(1e-3)),
        mesh=MeshConfig(**({"data": 1} | sizes)),
        batch={"tokens": (1, B, T)},
        dtype="bfloat16",
    )


MESHES = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2, "sequence": 2}]
QUICK = {("decoder", 1)}
CASES = [
    pytest.param(family, sizes, marks=() if (family, index) in QUICK else pytest.mark.slow, id=f"{family}-{sizes}")
    for family in CONFIGS
    for index, sizes in enumerate(MESHES)
]


@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_gradients_are_summed_in_float32_and_weights_are_sent_in_bfloat16(family, sizes):
    job = job_of(family, **sizes)
    mesh = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes
    found = read_collectives(program_of(job), mesh)
    sums = [one for one in found if one.kind in ("all-reduce", "reduce-scatter")]
    # Over tensor and sequence alone go sums of activations.
    gradients = [one for one in sums if {"data", "fsdp"} & set(one.axes)]
    assert sum(one.bytes for one in gradients) > 0
    assert {one.shape.lstrip("(")[:4] for one in gradients} == {"f32["}
    weights = [one for one in found if one.kind == "all-gather" and "fsdp" in one.axes]
    assert bool(weights) == ("fsdp" in sizes)
    # Learned positions, one small table, are sent as they are stored.
    positions = f"f32[{CONFIGS[family][1].max_length},"
    weights = [one for one in weights if not one.shape.lstrip("(").startswith(positions)]
    assert {one.shape.lstrip("(")[:5] for one in weights if one.bytes > 4 * B * T} <= {"bf16["}

    narrow = dataclasses.replace(job, gradient_sum="compute")
    others = read_collectives(program_of(narrow), mesh)
    assert any(one.shape.startswith("bf16[") for one in others if one.kind == "all-reduce" and one.axes != ("tensor",))
    # Straight into the pieces: first over fsdp, of which each device keeps a part, then over data, of that part alone.
    for one in (*gradients, *(other for other in others if "reduce" in other.kind and other.axes != ("tensor",))):
        if one.axes == ("fsdp",) and one.bytes > 4 * 4 * D:
            assert one.sliced or one.kind == "reduce-scatter", one
        if "fsdp" in sizes and "data" in one.axes:
            assert one.bytes <= 4 * WORDS * D / (sizes["fsdp"] * sizes.get("tensor", 1)), one
    # The plan says what it costs: no weight is gathered less often, as it would be if it were kept meanwhile.
    wide, less = (summarize_communication(one, sums) for one, sums in ((job, found), (narrow, others)))
    assert wide.widened == pytest.approx(wide.counted - less.counted, rel=0.1)
    assert less.widened == 0
    assert "Gradients are summed over devices in float32" in communication_table(wide)
    assert "Gradients are summed" not in communication_table(less)


# Sums of what eight devices give: 256 and seven times 1. In bfloat16, which has no 263, they are 264 or 256.


def gradient_by(weight: np.ndarray, use, *, gradient_sum: str = "float32", **sizes: int) -> np.ndarray:
    mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)), devices=jax.devices()[: int(np.prod(list(sizes.values())))])
    x = np.where(np.arange(8) == 3, 256.0, 1.0)[:, None, None] * np.ones((8, 2, 8))
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))

    @jax.jit
    def gradient(weight, x):
        with use_mesh(mesh, gradient_sum=gradient_sum):
            return jax.grad(lambda weight: use(weight, x))(weight)

    return np.asarray(gradient(weight, jax.device_put(x.astype(jnp.bfloat16), rows)))


def by_linear(weight, x):
    layer = Linear((8,), (8,), axes=("embed", "mlp"), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer.weight.set_value(weight)
    return layer(x[:, :1]).astype(jnp.float32).sum()


def by_bias(bias, x):
    layer = Linear((8,), (8,), axes=("embed", "mlp"), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer.bias.set_value(bias)
    return (layer(x[:, :1]) * x[:, :1]).astype(jnp.float32).sum()


def by_joint_product(weight, x):
    (y,) = joint_product(x[:, :1], [weight], axes=("embed", "mlp"), axis=1, dtype=jnp.bfloat16)
    return y.astype(jnp.float32).sum()


def by_embedding(table, x):
    words = look_up(table, jnp.zeros((8, 1), jnp.int32), dtype=jnp.bfloat16)
    return (words * x[:, :1]).astype(jnp.float32).sum()


@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 4}], ids=str)
@pytest.mark.parametrize("use", [by_linear, by_joint_product, by_bias, by_embedding])
def test_a_sum_over_devices_is_exact_where_bfloat16_has_no_such_number(use, sizes):
    shape = (8,) if use is by_bias else (8, 8)
    found = gradient_by(np.ones(shape, np.float32), use, **sizes)
    assert found.dtype == np.float32
    rows = found[:1] if use is by_embedding else found  # one word is looked up
    np.testing.assert_array_equal(rows, np.full_like(rows, 263.0))
    if use is by_linear:
        assert (gradient_by(np.ones(shape, np.float32), use, gradient_sum="compute", **sizes) != 263.0).all()


@pytest.mark.parametrize("gradient_sum", ["float32", "compute"])
@pytest.mark.parametrize("use", [by_linear, by_joint_product])
def test_a_gradient_is_in_the_pieces_of_its_weight_wherever_it_goes(use, gradient_sum):
    """Nothing after it asks for them, as the update of a step does, and each device has rows of its own."""
    mesh = make_mesh(MeshConfig(fsdp=8), devices=jax.devices()[:8])
    rows = jax.device_put(jnp.ones((8, 2, 8), jnp.bfloat16), jax.NamedSharding(mesh, jax.P("fsdp")))
    pieces = named_sharding(mesh, ("embed", "mlp"), (8, 8))

    @jax.jit
    def gradient(weight, x):
        with use_mesh(mesh, gradient_sum=gradient_sum):
            found = jax.grad(lambda weight: use(weight, x))(weight)
        return jax.lax.with_sharding_constraint(found * 2, replicated(mesh)), found

    weight = jax.device_put(jnp.ones((8, 8)), pieces)
    assert gradient(weight, rows)[1].sharding.is_equivalent_to(pieces, 2)


def test_gradients_in_float32_cost_no_product():
    job = job_of("decoder", fsdp=4, tensor=2)
    mesh = make_mesh(job.mesh, devices=jax.devices()[:8])
    model = nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    batch = {"tokens": jax.ShapeDtypeStruct((B, T), jnp.int32)}

    def flops(gradient_sum: str):
        def gradient(params, batch):
            with use_mesh(mesh, gradient_sum=gradient_sum):
                return jax.grad(lambda params: job.loss(params, batch, None)["loss"])(params)

        return count_flops(gradient, params, batch)

    wide, narrow = flops("float32"), flops("compute")
    assert wide.total == narrow.total
    assert wide.recomputed == narrow.recomputed == 0
