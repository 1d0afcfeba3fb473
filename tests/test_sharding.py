import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from lmx.nn.dropout import dropout
from lmx.nn.embedding import Embedding
from lmx.nn.feedforward import FeedForward
from lmx.nn.layers import LayerNorm, Linear
from lmx.optimization import adam, constant
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, count_devices, make_mesh, resolve_mesh, sizes_of
from lmx.sharding.placement import fetch, named_sharding, place_batch, replicated, shards, token_shards
from lmx.sharding.rules import DEFAULT_RULES, MESH_AXES
from lmx.sharding.step import constrain, parts, use_mesh
from lmx.training import born, state_shardings

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1) -> jax.sharding.Mesh:
    config = MeshConfig(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
    return make_mesh(config, devices=jax.devices()[: data * fsdp * tensor * sequence])


def assert_placed(arrays, shardings):
    def is_placed(array, sharding) -> bool:
        return array.sharding.is_equivalent_to(sharding, array.ndim)

    assert jax.tree.all(jax.tree.map(is_placed, arrays, shardings))


# Meshes.


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=2, tensor=2), (2, 2, 2, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 8, 1, 1)),
        (MeshConfig(data=2, tensor=-1, sequence=2), (2, 1, 2, 2)),
        (MeshConfig(data=8), (8, 1, 1, 1)),
        (MeshConfig(data=-1, fsdp=8), (1, 8, 1, 1)),
    ],
)
def test_a_mesh_has_the_sizes_asked_for_and_what_is_left(config, sizes):
    mesh = make_mesh(config, devices=jax.devices()[:8])
    assert mesh.axis_names == MESH_AXES
    assert tuple(mesh.shape.values()) == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_mesh_takes_the_devices_it_is_given_in_their_order():
    devices = jax.devices()[2:6]
    assert make_mesh(MeshConfig(fsdp=2), devices=devices).devices.ravel().tolist() == devices


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            MeshConfig(data=3),
            r"^mesh sizes must multiply to the 8 devices, got data=3, fsdp=1, tensor=1, sequence=1\.$",
        ),
        (MeshConfig(fsdp=3), r"^mesh sizes must multiply to the 8 devices, got data=-1, fsdp=3,"),
        (MeshConfig(fsdp=16), r"^mesh sizes must multiply to the 8 devices, got data=-1, fsdp=16,"),
        (
            MeshConfig(tensor=-1),
            r"^mesh sizes must be positive, at most one of them -1 \(what is left\), got data=-1, fsdp=1, tensor=-1,",
        ),
        (MeshConfig(sequence=0), r"^mesh sizes must be positive, .* sequence=0\.$"),
        (MeshConfig(data=-2), r"^mesh sizes must be positive, .* got data=-2,"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_errors(config, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config, devices=jax.devices()[:8])


@pytest.mark.parametrize("devices", [None, 8])
@pytest.mark.parametrize("config", [MeshConfig(fsdp=-1), MeshConfig(data=0, fsdp=8), MeshConfig(tensor=-2)])
def test_sizes_that_no_mesh_has_are_not_filled_up(config, devices):
    with pytest.raises(
        ValueError, match=r"^mesh sizes must be positive, at most one of them -1 \(what is left\), got "
    ):
        resolve_mesh(config, devices)
    with pytest.raises(ValueError, match=r"^mesh sizes must be positive"):  # what a row's length is divided by
        shards(config, "length")


def test_an_open_size_takes_what_the_others_leave():
    assert resolve_mesh(MeshConfig(fsdp=2, tensor=2), 8) == MeshConfig(data=2, fsdp=2, tensor=2)
    assert resolve_mesh(MeshConfig(data=2, sequence=-1), None) == MeshConfig(data=2, sequence=1)
    assert resolve_mesh(MeshConfig(data=2, fsdp=4), 8) == resolve_mesh(MeshConfig(data=2, fsdp=4), None)
    for config, devices in ((MeshConfig(data=2, fsdp=2), 8), (MeshConfig(fsdp=16), 8)):
        with pytest.raises(ValueError, match=r"^mesh sizes must multiply to devices=8, got data="):
            resolve_mesh(config, devices)
    assert count_devices(MeshConfig(fsdp=2, tensor=3)) == 6
    assert sizes_of(MeshConfig(fsdp=2)) == {"data": -1, "fsdp": 2, "tensor": 1, "sequence": 1}


def test_rows_and_tokens_are_split_over_their_axes():
    mesh = MeshConfig(data=2, fsdp=3, tensor=5, sequence=7)
    assert token_shards(mesh) == 42
    assert token_shards(mesh, rules={**DEFAULT_RULES, "batch": ("data",), "length": ()}) == 2
    assert shards({"data": 2, "fsdp": 3, "tensor": 5}, "embed", "heads", "nothing") == 15


@pytest.mark.parametrize("mesh", [None, {}, {"data": 2, "fsdp": 2, "sequence": 2}])
def test_a_layout_says_where_results_and_batches_are(mesh):
    layout = Layout() if mesh is None else Layout(mesh_of(**mesh))
    several = bool(mesh)
    batch = {"tokens": np.arange(24).reshape(8, 3)}
    assert (layout.devices, layout.row_shards) == ((8, 4) if several else (1, 1))
    assert (layout.whole is None) == (layout.sharding(("batch", None)) is None) == (not several)
    assert (layout.place(batch) is batch) == (not several)
    assert layout.rows_of_host(8) == slice(0, 8)
    with layout.inference():
        assert (parts("batch"), parts("length")) == ((4, 1) if several else (1, 1))
    with layout.inference(rows=False):
        assert (parts("batch"), parts("length"), parts("embed")) == ((1, 1, 2) if several else (1, 1, 1))
    if several:
        assert layout.whole.is_fully_replicated
        assert layout.sharding(("batch", None), (8, 3)).shard_shape((8, 3)) == (2, 3)
        np.testing.assert_array_equal(layout.place(batch)["tokens"], batch["tokens"])
        with pytest.raises(ValueError, match=r"^axis 'batch' must be divisible by its 4 devices"):
            layout.sharding(("batch", None), (6, 3))


# From names of axes to places.


@pytest.mark.parametrize(
    ("axes", "spec"),
    [
        (("embed", "heads", None), ("fsdp", "tensor", None)),
        (("layers", "mlp", "embed"), (None, "tensor", "fsdp")),
        (("vocab", "embed"), ("tensor", "fsdp")),
        (("batch", "length"), (("data", "fsdp"), None)),  # no sequence axis in this mesh
        ((None,), (None,)),
    ],
)
def test_the_table_says_where_an_axis_lives(axes, spec):
    expected = [name if isinstance(name, tuple) or name is None else (name,) for name in spec]
    assert named_sharding(mesh_of(2, 2, 2), axes).spec == PartitionSpec(*expected)


def test_every_rule_names_axes_of_the_mesh():
    assert {name for names in DEFAULT_RULES.values() for name in names} <= set(MESH_AXES)


def test_an_array_that_is_replicated_lives_whole_on_every_device():
    placed = jax.device_put(np.arange(5), replicated(mesh_of(2, 2, 2)))
    assert len(placed.addressable_shards) == 8
    assert all(shard.data.shape == (5,) for shard in placed.addressable_shards)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (
            ("embed", "heads", None),
            (24, 7, 6),
            r"^axis 'heads' must be divisible by its 4 devices \(mesh tensor\), got size=7; the nearest that is: 8\.$",
        ),
        (
            ("batch", "length"),
            (3, 5),
            r"^axis 'batch' must be divisible by its 2 devices \(mesh fsdp\), got size=3; the nearest that is: [24]\.$",
        ),
        (("vocab", "embed"), (1, 24), r"^axis 'vocab' must be divisible by its 4 devices .* size=1; .* is: 4\.$"),
    ],
)
def test_an_axis_that_does_not_divide_is_an_error_that_names_the_nearest(axes, shape, message):
    with pytest.raises(ValueError, match=message):
        named_sharding(mesh_of(fsdp=2, tensor=4), axes, shape)


def test_rules_that_split_two_axes_over_the_same_devices_are_an_error():
    rules = {**DEFAULT_RULES, "vocab": ("tensor", "fsdp")}
    with pytest.raises(ValueError, match=r"^the rules must split an array over each mesh axis once, got "):
        named_sharding(mesh_of(2, 2, 2), ("vocab", "embed"), (128, 24), rules=rules)


@pytest.mark.parametrize("over", ["tensor", ("tensors",), ("data", "model")])
def test_rules_over_what_no_mesh_has_are_an_error(over):
    rules = {**DEFAULT_RULES, "vocab": over}
    message = r"^rules must split vocab over axes of \('data', 'fsdp', 'tensor', 'sequence'\), as a tuple, got "
    for use in (
        lambda: named_sharding(mesh_of(2, 2, 2), ("vocab", "embed"), rules=rules),
        lambda: shards({"data": 2}, "vocab", rules=rules),
        lambda: use_mesh(mesh_of(2, 2, 2), rules=rules).__enter__(),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_arrays_in_pieces_on_one_host_are_fetched_without_a_word_to_others(monkeypatch):
    def never(*_, **__):
        raise AssertionError("hosts talk about arrays that one of them has")

    monkeypatch.setattr("lmx.sharding.placement.in_pieces", never)
    whole = np.arange(64.0).reshape(8, 8)
    mesh = mesh_of(2, 2, 2)
    for axes in (("batch", None), ("vocab", "embed"), (None, None)):
        tree = {"x": jax.device_put(whole, named_sharding(mesh, axes))}
        np.testing.assert_array_equal(fetch(tree)["x"], whole)
        assert fetch(tree, keep=False)["x"] is None


def test_another_table_of_rules_places_parameters_elsewhere():
    abstract = nnx.eval_shape(lambda: Small(rngs=nnx.Rngs(0)))
    mesh = mesh_of(2, 2, 2)
    usual = state_shardings(abstract, OPTIMIZER, mesh=mesh).params["embedding"]["table"]
    other = state_shardings(abstract, OPTIMIZER, mesh=mesh, rules={**DEFAULT_RULES, "vocab": ()})
    assert usual.shard_shape((256, 24)) == (128, 12)
    assert other.params["embedding"]["table"].shard_shape((256, 24)) == (256, 12)


def test_a_batch_is_split_by_rows_over_data_and_fsdp():
    mesh = mesh_of(2, 2, 2)
    batch = {"source": np.arange(3 * 8 * 5).reshape(3, 8, 5), "weight": np.arange(3 * 8.0).reshape(3, 8)}
    placed = place_batch(batch, mesh)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        assert {shard.data.shape for shard in placed[name].addressable_shards} == {(3, 2, *array.shape[2:])}
    with pytest.raises(ValueError, match=r"^axis 'batch' must be divisible by its 4 devices \(mesh dataxfsdp\), got"):
        place_batch({"source": np.zeros((3, 6, 5))}, mesh)


# Constraints inside a step.


def test_constrain_does_nothing_outside_a_mesh_or_on_one_device():
    x = jnp.zeros((4, 6, 5))
    assert constrain(x, "batch", "length", "embed") is x
    with use_mesh(mesh_of()):
        assert constrain(x, "batch", "length", "embed") is x


def test_constrain_lays_activations_out_by_their_names():
    mesh = mesh_of(2, 2, 2)

    @jax.jit
    def lay_out(x):
        with use_mesh(mesh):
            return constrain(x, "batch", "length", "embed"), constrain(x, None, None, "mlp")

    by_rows, by_width = lay_out(np.zeros((4, 6, 10), np.float32))
    # The width of an activation is not split as that of a weight is.
    assert {shard.data.shape for shard in by_rows.addressable_shards} == {(1, 6, 10)}
    assert {shard.data.shape for shard in by_width.addressable_shards} == {(4, 6, 5)}


def test_a_mesh_is_in_force_only_inside_its_block():
    x = jnp.zeros((3, 6))  # does not divide: whoever lays it out fails
    with use_mesh(mesh_of(2, 2, 2)):
        with pytest.raises(ValueError, match="'batch' must be divisible"):
            constrain(x, "batch", None)
        with use_mesh(mesh_of()):
            assert constrain(x, "batch", None) is x
        with pytest.raises(ValueError, match="'batch' must be divisible"):
            constrain(x, "batch", None)
    with pytest.raises(KeyError), use_mesh(mesh_of(2, 2, 2)):
        raise KeyError
    assert constrain(x, "batch", None) is x


def test_dropout_masks_do_not_depend_on_the_mesh():
    x, key = np.ones((8, 6, 10), np.float32), jax.random.key(3)
    expected = np.asarray(jax.jit(lambda x: dropout(x, 0.4, key))(x))
    mesh = mesh_of(2, 2, 2)

    @jax.jit
    def on_mesh(x):
        with use_mesh(mesh):
            return dropout(constrain(x, "batch", None, "mlp"), 0.4, key)

    found = on_mesh(x)
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 6, 5)}
    np.testing.assert_array_equal(found, expected)


# A state, born where it lives.


class Small(nnx.Module):
    """A parameter of each kind, few random draws: they take most of the time to compile."""

    def __init__(self, heads: int = 4, *, rngs: nnx.Rngs):
        self.embedding = Embedding(150, 24, rngs=rngs)
        self.query = Linear((24,), (heads, 6), axes=("embed", "heads", None), rngs=rngs)
        self.feedforward = FeedForward(24, 40, rngs=rngs)
        self.norm = LayerNorm(24)


OPTIMIZER = adam(constant(0.1), epsilon=1.0, clip_norm=1.0)  # a large epsilon: small gradients stay small updates


@pytest.fixture(scope="module")
def unsharded():
    return newborn(mesh_of())[0]


def newborn(mesh: jax.sharding.Mesh, **sizes):
    """Returns a state with an average, and where each of its arrays should live."""
    abstract = nnx.eval_shape(lambda: Small(**sizes, rngs=nnx.Rngs(0)))
    shardings = state_shardings(abstract, OPTIMIZER, mesh=mesh, average=True)
    return born(lambda rngs: Small(**sizes, rngs=rngs), OPTIMIZER, shardings=shardings, seed=5), shardings


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        ({"fsdp": 8}, {"table": (256, 3), "query": (3, 4, 6), "up": (3, 40), "down": (40, 3)}),
        ({"data": 4, "tensor": 2}, {"table": (128, 24), "query": (24, 2, 6), "up": (24, 20), "down": (20, 24)}),
    ],
)
def test_a_state_is_born_in_pieces_and_equal_to_the_whole(unsharded, sizes, shards):
    mesh = mesh_of(**sizes)
    found, shardings = newborn(mesh)
    jax.tree.map(np.testing.assert_array_equal, found, unsharded)
    assert_placed(found, shardings)
    # Parameters, their average and Adam's two moments live in the same pieces; norms, biases, counts on each device.
    adam_state = next(part for part in jax.tree.leaves(found.optimizer_state, is_leaf=_is_adam) if _is_adam(part))
    for tree in (found.params, found.average, adam_state.mu, adam_state.nu):
        pieces = {
            "table": tree["embedding"]["table"],
            "query": tree["query"]["weight"],
            "up": tree["feedforward"]["up"]["weight"],
            "down": tree["feedforward"]["down"]["weight"],
        }
        assert {name: piece.addressable_shards[0].data.shape for name, piece in pieces.items()} == shards
        assert tree["norm"]["scale"].sharding.is_fully_replicated
        assert tree["query"]["bias"].sharding.is_fully_replicated
    for leaf in (found.step, found.seed, found.skipped, adam_state.count):
        assert leaf.sharding.is_equivalent_to(replicated(mesh), 0)


def _is_adam(part) -> bool:
    return hasattr(part, "mu")


def test_a_model_that_does_not_divide_is_an_error_before_anything_is_made():
    with pytest.raises(
        ValueError, match=r"^axis 'heads' must be divisible by its 2 devices \(mesh tensor\), got size=5;"
    ):
        newborn(mesh_of(2, 2, 2), heads=5)
