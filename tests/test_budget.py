"""What a config says of its batches meets the mesh: tokens of a device, lengths that divide, also when continuing."""

import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from lmx import learner
from lmx.config import BatchConfig, RowsConfig
from lmx.definition import define
from lmx.errors import InputError
from lmx.experiment import tokens_on_device
from lmx.learner import Learner, Placed, check_shapes, place
from lmx.nn.layers import Linear
from lmx.optimization import adam, constant
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import token_shards
from lmx.sharding.rules import DEFAULT_RULES


def mesh_of(**sizes: int) -> jax.sharding.Mesh:
    config = MeshConfig(**({"data": 1} | sizes))
    return make_mesh(config, devices=jax.devices()[: config.data * config.fsdp * config.tensor * config.sequence])


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ({}, 16),
        ({"fsdp": 4}, 16),
        ({"data": 2, "sequence": 8}, 16),  # each device has an eighth of its rows' positions
        ({"data": 2, "tensor": 8}, 2),  # devices that split heads share their tokens
        ({"fsdp": 2, "tensor": 2, "sequence": 4}, 8),
    ],
)
def test_the_budget_of_a_device_times_those_that_share_a_batch_is_the_budget_of_the_batch(sizes, shares, tmp_path):
    config, mesh = BatchConfig(tokens_per_device=300), MeshConfig(**sizes)
    settled = config.settled(mesh, run=tmp_path / "new", devices=16)
    assert settled == replace(config, tokens_per_batch=300 * shares)
    assert BatchConfig().settled(mesh, run=tmp_path, devices=3).tokens_per_batch == 4096


def test_a_run_that_was_begun_keeps_its_batches_on_other_devices(tmp_path):
    config, mesh = BatchConfig(tokens_per_device=300), MeshConfig()
    begun = config.settled(mesh, run=tmp_path, devices=4)
    saved = {"tokens_per_batch": begun.tokens_per_batch, "tokens_per_device": 300}
    (tmp_path / "config.json").write_text(json.dumps({"config": saved}))
    assert config.settled(mesh, run=tmp_path, devices=16) == begun
    # Another number is another config, which the run refuses by the list of what differs.
    assert replace(config, tokens_per_device=200).settled(mesh, run=tmp_path, devices=16).tokens_per_batch == 3200
    for damaged in ("{", "[]", '{"config": 3}', '{"config": {}}'):
        (tmp_path / "config.json").write_text(damaged)
        assert config.settled(mesh, run=tmp_path, devices=16).tokens_per_batch == 4800


@pytest.mark.parametrize(
    ("tokens", "mesh", "message"),
    [
        (0, MeshConfig(), r"^tokens_per_device must be at least 1, got tokens_per_device=0\.$"),
        (
            9,
            MeshConfig(fsdp=3),
            r"^mesh sizes must multiply to devices=16, got data=-1, ",
        ),
    ],
)
def test_a_budget_that_means_nothing_is_an_error(tokens, mesh, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        BatchConfig(tokens_per_device=tokens).settled(mesh, run=tmp_path, devices=16)


@pytest.mark.parametrize(
    ("multiple", "max_length", "sequence", "message"),
    [
        (1, 48, 2, r"^length_multiple must be divisible by mesh.sequence=2, got length_multiple=1\. It is part of the"),
        (6, 48, 4, r"^length_multiple must be divisible by mesh.sequence=4, got length_multiple=6\."),
        (0, 48, 1, r"^length_multiple must be divisible by mesh.sequence=1, got length_multiple=0\."),
        (8, 50, 4, r"^max_length must be divisible by length_multiple=8, got max_length=50; the next that is: 56\.$"),
    ],
)
def test_lengths_that_do_not_divide_are_errors(multiple, max_length, sequence, message):
    with pytest.raises(ValueError, match=message):
        BatchConfig(length_multiple=multiple).check_lengths(max_length=max_length, sequence=sequence)


def test_lengths_that_divide_over_fewer_devices_too_are_none():
    for sequence in (1, 2, 4, 8):
        BatchConfig(length_multiple=8).check_lengths(max_length=48, sequence=sequence)


def test_rows_in_tokens():
    assert RowsConfig(context=64, tokens_per_batch=1000).rows == 15
    with pytest.raises(InputError, match=r"must be at least a row of context=64 tokens, got tokens_per_batch=63\."):
        _ = RowsConfig(context=64, tokens_per_batch=63).rows
    assert RowsConfig(context=64, tokens_per_batch=64).rows == 1
    with pytest.raises(InputError, match=r"^context must be at least 1, got context=0\.$"):
        _ = RowsConfig(context=0).rows
    with pytest.raises(InputError, match=r"context must be divisible by mesh.sequence=3, got context=64\."):
        RowsConfig(context=64).check_lengths(max_length=64, sequence=3)


@pytest.mark.parametrize(
    ("changes", "objective", "message"),
    [
        ({"stride": 0}, "causal", "stride must be from 1 to context=64, got stride=0."),
        ({"stride": 65}, "causal", "stride must be from 1 to context=64, got stride=65."),
        ({"stride": 9, "packing": "documents"}, "causal", "packing must be stream where a stride is given, got pack"),
        ({"stride": 9}, "masked", "objective must be causal where a stride is given, got objective=masked."),
        ({"stride": 9}, "prefix", "objective must be causal where a stride is given, got objective=prefix."),
    ],
)
def test_held_out_rows_overlap_where_that_means_something(changes, objective, message):
    with pytest.raises(InputError, match=re.escape(message)):
        RowsConfig(context=64, **changes).check_stride(objective=objective)
    RowsConfig(context=64, stride=64).check_stride(objective="causal")
    RowsConfig(context=64, packing="documents").check_stride(objective="masked")


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_shapes_that_do_not_divide_are_errors_that_name_the_fields():
    check_shapes([(2, 8, 5), (2, 4, 9)], mesh_of(data=2, fsdp=2, tensor=2))
    message = (
        r"got size=6; the nearest that is: [48]\. Rows are a multiple of rows_multiple and lengths of length_multiple"
    )
    with pytest.raises(ValueError, match=message):
        check_shapes([(2, 8, 5), (2, 6, 9)], mesh_of(data=2, fsdp=2, tensor=2))
    # Lengths, too, before a compiler sees them.
    check_shapes([(2, 8, 6)], mesh_of(fsdp=2, sequence=2))
    with pytest.raises(ValueError, match=r"got size=7; the nearest that is: [68]\. Rows are a multiple of"):
        check_shapes([(2, 8, 6), (2, 8, 7)], mesh_of(fsdp=2, sequence=2))


def learner_of(**options) -> Learner:
    definition = define(lambda rngs: Linear((4,), (8,), axes=("embed", "mlp"), rngs=rngs))
    return Learner(definition, lambda *_: {}, adam(constant(0.1)), constant(0.1), **options)


def test_a_learner_is_placed_by_all_that_it_says(monkeypatch):
    asked: dict = {}
    for name in ("compile_step", "compile_eval_step"):
        monkeypatch.setattr(learner, name, lambda step, name=name, **options: asked.update({name: options}) or step)
    rules = {**DEFAULT_RULES, "mlp": ()}
    mesh = mesh_of()
    for gradient_sum in ("compute", "float32"):
        placed = place(learner_of(gradient_sum=gradient_sum), mesh, rules=rules)
        assert asked["compile_step"] == {
            "mesh": mesh, "shardings": placed.shardings, "rules": rules, "gradient_sum": gradient_sum,
        }  # fmt: skip
    assert asked["compile_eval_step"] == {"mesh": mesh, "rules": rules}
    assert (placed.like.average, placed.like.best, placed.rules) == (None, None, rules)
    placed = place(learner_of(average_decay=0.9, keeps_best=True, num_seeds=3), mesh)
    assert placed.like.average["weight"].shape == placed.like.best["weight"].shape == (3, 4, 8)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("num_seeds", [None, 3])
def test_rows_of_a_batch_are_split_behind_seeds_and_micro_batches(num_seeds):
    first = () if num_seeds is None else (num_seeds,)
    shape, part = (*first, 2, 8, 5), (*first, 2, 2, 5)
    blank = Placed(*[None] * len(Placed._fields))
    placed = blank._replace(learner=learner_of(num_seeds=num_seeds), mesh=mesh_of(data=2, fsdp=2), rules=DEFAULT_RULES)
    assert placed.place_batch({"x": np.zeros(shape)})["x"].sharding.shard_shape(shape) == part
    whole = placed._replace(rules={**DEFAULT_RULES, "batch": ()})
    assert whole.place_batch({"x": np.zeros(shape)})["x"].sharding.shard_shape(shape) == shape


@pytest.mark.parametrize("stacked", [False, True])
def test_parameters_are_made_whole_for_each_seed(stacked):
    definition = learner_of().model._replace(adapt=lambda params: {"weight": params["weight"].T})
    mesh = mesh_of()
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = {"weight": np.arange(24.0).reshape(2, 3, 4) if stacked else np.arange(12.0).reshape(3, 4)}
    found = learner._whole(definition, {"weight": where}, stacked=stacked)(params)["weight"]
    np.testing.assert_array_equal(found, params["weight"].swapaxes(-1, -2))
    assert learner._whole(learner_of().model, {}, stacked=stacked)(params) is params


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_tokens_on_a_device_are_counted_with_their_padding():
    shapes = [(3, 32, 6), (3, 16, 10)]
    assert tokens_on_device(shapes, mesh_of(data=2, fsdp=2, tensor=2)) == "40 to 48 a micro-batch, 120 to 144 an update"
    assert tokens_on_device(shapes[:1], mesh_of(fsdp=2, sequence=2)) == "48 a micro-batch, 144 an update"
    assert tokens_on_device([(1, 32, 6), (1, 16, 10)], mesh_of()) == "160 to 192 an update"
    assert token_shards(mesh_of(fsdp=2, tensor=2, sequence=2).shape) == 4
