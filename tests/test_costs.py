import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas
from jax.sharding import PartitionSpec

from lmx.costs import count_flops, saved_residuals
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig, training_flops
from lmx.sharding.mesh import MeshConfig, make_mesh


def shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


# FLOPs.


def test_a_product_of_matrices_is_two_operations_a_multiply_add():
    assert count_flops(jnp.dot, shape(3, 5), shape(5, 7)).total == 2 * 3 * 5 * 7
    assert count_flops(functools.partial(jnp.einsum, "BTD,BSD->BTS"), shape(2, 3, 5), shape(2, 7, 5)).total == 420


def test_a_convolution_counts_its_kernel_for_each_output():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))

    assert count_flops(convolve, shape(2, 11, 3), shape(4, 3, 5)).total == 2 * (2 * 8 * 5) * (4 * 3)


def test_a_scan_counts_as_often_as_it_runs_and_inner_functions_count():
    @jax.jit
    def layer(x, w):
        return jax.checkpoint(jnp.dot)(x, w), None

    found = count_flops(lambda x, ws: jax.lax.scan(layer, x, ws)[0], shape(3, 5), shape(9, 5, 5))
    assert found.total == 9 * 2 * 3 * 5 * 5
    assert found.unknown == ()


def test_what_a_checkpoint_makes_the_backward_pass_do_again_is_told():
    def loss(ws, x, *, again: bool):
        def layer(x, w):
            return jnp.tanh(jnp.tanh(x @ w) @ w), None

        return jax.lax.scan(jax.checkpoint(layer) if again else layer, x, ws)[0].sum()

    def flops(again: bool):
        return count_flops(jax.grad(functools.partial(loss, again=again)), shape(9, 5, 5), shape(3, 5))

    product = 9 * 2 * 3 * 5 * 5
    assert (flops(False).total, flops(False).recomputed) == (6 * product, 0)
    assert flops(True).total - flops(True).recomputed == 6 * product
    assert flops(True).recomputed == product * 2  # both, as tanh's own gradient needs its output


def test_a_conditional_counts_its_largest_branch_and_a_loop_without_a_length_is_told():
    def choose(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_flops(choose, shape(dtype=jnp.bool_), shape(5, 5)).total == 2 * 2 * 125
    found = count_flops(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x), shape(5, 5))
    assert found.total == 2 * 125
    assert found.unknown == ("a while loop counts once",)


@pytest.mark.skipif(jax.device_count() < 6, reason="needs 6 devices")
def test_what_each_device_does_of_a_product_counts_for_all_of_them():
    mesh = make_mesh(MeshConfig(data=2, tensor=3), devices=jax.devices()[:6])

    def product(x, w):
        return jax.lax.psum(x @ w, "tensor")

    specs = (PartitionSpec("data", "tensor"), PartitionSpec("tensor", None))
    split = jax.shard_map(product, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data", None))
    assert count_flops(split, shape(4, 9), shape(9, 5)).total == 2 * 4 * 9 * 5


def test_what_a_kernel_of_its_own_does_is_told_as_not_counted():
    def kernel(given, found):
        found[...] = given[...] @ given[...]

    called = pallas.pallas_call(kernel, out_shape=shape(5, 5))
    found = count_flops(lambda x: called(x) @ x, shape(5, 5))
    assert (found.total, found.unknown) == (2 * 125, ("pallas_call is not counted",))


def loss_of(config: Seq2SeqConfig):
    abstract = nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0)))
    definition = nnx.graphdef(abstract)

    def loss(params, source, target):
        model = nnx.merge(definition, params)
        memory, _ = model.encode(source)
        states, _ = model.decode(memory, source, target)
        return model.logits(states).sum()

    return loss, nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


@pytest.mark.parametrize(("layers", "source", "keys"), [(1, 10, None), (3, 10, None), (1, 30, 2), (1, 4, 1)])
def test_the_flops_of_a_step_are_what_the_formula_says(layers, source, keys):
    config = Seq2SeqConfig(
        source_vocab_size=384,
        target_vocab_size=384,
        width=32,
        feedforward_width=80,
        num_heads=4,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        num_kv_heads=keys,
        dropout_rate=0.0,
    )
    loss, params = loss_of(config)
    found = count_flops(jax.grad(loss), params, shape(6, source, dtype=jnp.int32), shape(6, 10, dtype=jnp.int32))
    expected, _ = training_flops(config, rows=6, source=source, target=10)
    assert found.total == pytest.approx(expected, rel=0.01)


def test_layers_cost_what_one_layer_costs_each():
    def flops(layers: int) -> float:
        config = Seq2SeqConfig(
            source_vocab_size=128, target_vocab_size=128, width=16, feedforward_width=24, num_heads=2,
            num_encoder_layers=layers, num_decoder_layers=layers,
        )  # fmt: skip
        loss, params = loss_of(config)
        return count_flops(jax.grad(loss), params, shape(2, 7, dtype=jnp.int32), shape(2, 5, dtype=jnp.int32)).total

    one, two, seven = flops(1), flops(2), flops(7)
    assert seven - one == pytest.approx(6 * (two - one), rel=1e-9)


# What differentiation saves.


def test_residuals_are_what_the_backward_pass_reads_without_parameters_and_constants():
    x = jnp.ones((4, 3))

    def function(params):
        return jax.nn.relu(x @ params["w"]).sum()  # its mask; x and the zeros are constants

    residuals, found = saved_residuals(function, {"w": shape(3, 5)})
    assert [(one.shape, one.dtype) for one in found] == [((4, 5), jnp.bool_)]
    assert [leaf.shape for leaf in jax.eval_shape(residuals, {"w": shape(3, 5)})] == [(4, 5)]


def test_forms_and_broadcasts_of_an_array_count_as_the_array():
    def function(params):
        x = jnp.sin(params["x"])  # saves cos(x)
        y = x.reshape(3, 4).T  # saved by the product, as another form of x
        row = jnp.exp(params["row"])  # saved by itself, and broadcast by the product
        return (y @ y.T).sum() + (jnp.broadcast_to(row, (7, 5)) * jnp.cos(params["w"])).sum()

    params = {"x": shape(12), "row": shape(5), "w": shape(7, 5)}
    _, found = saved_residuals(function, params)
    kept = sorted(round(one.share * jax.numpy.zeros(one.shape).size) for one in found)
    assert kept == [5, 12, 12, 35, 35]  # exp(row), cos(x), x, sin(w), cos(w)


def test_residuals_know_the_scope_they_come_from_inside_a_scan_too():
    def function(params):
        with jax.named_scope("embed"):
            x = jnp.sin(params["x"])

        def layer(x, w):
            with jax.named_scope("attention"):
                x = jnp.tanh(x @ w)
            with jax.named_scope("feedforward"):
                return jnp.exp(x), None

        with jax.named_scope("decoder"):
            return jax.lax.scan(layer, x, params["w"])[0].sum()

    _, found = saved_residuals(function, {"x": shape(4, 3), "w": shape(7, 3, 3)})
    scopes = {one.scope for one in found}
    assert scopes == {"embed", "decoder", "decoder/attention", "decoder/feedforward"}  # the second: a layer's input
    assert all(one.shape[0] == 7 for one in found if one.scope.startswith("decoder"))


def test_a_product_is_no_scope():
    def function(params):
        with jax.named_scope("attention"):
            return jnp.sin(jnp.einsum("BTHK,HKD->BTD", params["x"], params["w"])).sum()

    _, found = saved_residuals(function, {"x": shape(2, 5, 3, 4), "w": shape(3, 4, 6)})
    assert "attention" in {one.scope for one in found} <= {"attention", ""}


def test_a_recomputed_layer_saves_its_input_alone():
    def layer(x, w):
        return jnp.tanh(jnp.sin(x) @ w)

    params = {"x": shape(4, 3), "w": shape(3, 3)}
    plain = saved_residuals(lambda p: layer(p["x"] * 2, p["w"]).sum(), params)[1]
    recomputed = saved_residuals(lambda p: jax.checkpoint(layer)(p["x"] * 2, p["w"]).sum(), params)[1]
    assert len(plain) > len(recomputed) == 1
