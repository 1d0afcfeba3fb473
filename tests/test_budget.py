"""What a config says of its batches meets the mesh: tokens of a device, lengths that divide, also when continuing."""

import json
from dataclasses import replace

import jax
import pytest

from lmx.config import BatchConfig
from lmx.experiment import tokens_on_device
from lmx.learner import check_shapes
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import token_shards


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


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_tokens_on_a_device_are_counted_with_their_padding():
    shapes = [(3, 32, 6), (3, 16, 10)]
    assert tokens_on_device(shapes, mesh_of(data=2, fsdp=2, tensor=2)) == "40 to 48 a micro-batch, 120 to 144 an update"
    assert tokens_on_device(shapes[:1], mesh_of(fsdp=2, sequence=2)) == "48 a micro-batch, 144 an update"
    assert tokens_on_device([(1, 32, 6), (1, 16, 10)], mesh_of()) == "160 to 192 an update"
    assert token_shards(mesh_of(fsdp=2, tensor=2, sequence=2).shape) == 4
