import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmx import plan as plan_package
from lmx.collectives import Collective
from lmx.definition import define
from lmx.devices import DEVICES, MEMORY_SHARES, describe_precision, device_of_kind, find_device
from lmx.experiment import start_facts
from lmx.learner import Learner, place
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.dropout import dropout
from lmx.nn.embedding import Embedding
from lmx.nn.layers import LayerNorm, Linear
from lmx.optimization import adam, constant
from lmx.plan import double_fsdp, halve_rows, make_plan
from lmx.plan.command import explain_out_of_memory, plan_of_this_command, split_arguments
from lmx.plan.communication import measure_communication, summarize_communication
from lmx.plan.figures import USABLE, Job
from lmx.plan.memory import measure_memory
from lmx.plan.tables import render
from lmx.sharding.mesh import MeshConfig, make_mesh, resolve_mesh
from lmx.sharding.placement import place_batch
from lmx.sharding.step import constrain
from lmx.training import born, compile_step, make_train_step, state_shardings

ROOT = Path(__file__).parents[1]
needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
ROWS, LENGTH, WORDS, D, F = 8, 12, 150, 32, 80
OPTIMIZER = adam(constant(0.1))


class Tiny(nnx.Module):
    """A language model of one feed-forward block, whose parameters split over fsdp and tensor."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.embedding = Embedding(WORDS, D, rngs=rngs)
        self.inner = Linear((D,), (F,), axes=("embed", "mlp"), rngs=rngs)
        self.outer = Linear((F,), (D,), axes=("mlp", "embed"), rngs=rngs)
        self.norm = LayerNorm(D)

    def __call__(self, tokens: jax.Array, key: jax.Array | None) -> jax.Array:
        with jax.named_scope("embed"):
            x = self.embedding(tokens)
        with jax.named_scope("feedforward"):
            x = x + dropout(self.outer(jax.nn.relu(self.inner(x))), 0.1, key)
        x = constrain(self.norm(x), "batch", "length", "embed")
        with jax.named_scope("loss"):
            return jax.nn.logsumexp(x @ self.embedding.table[...].T, axis=-1)


def job_of(mesh: MeshConfig, *, rows: int = ROWS, micro_batches: int = 1) -> Job:
    definition = nnx.graphdef(nnx.eval_shape(lambda: Tiny(rngs=nnx.Rngs(0))))

    def loss(params, part, key):
        found = nnx.merge(definition, params)(part["tokens"], key)
        return {"loss": found.sum(), "weight": jnp.float32(found.size)}

    return Job(
        build=lambda rngs: Tiny(rngs=rngs),
        loss=loss,
        optimizer=OPTIMIZER,
        mesh=mesh,
        batch={"tokens": (micro_batches, rows, LENGTH)},
        average=True,
    )


ON_EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def planned():
    return make_plan(job_of(ON_EIGHT), "h100")


# Memory.


@pytest.mark.slow
@needs_eight
def test_the_bytes_of_the_state_are_those_of_the_live_arrays_after_a_step(planned):
    job = job_of(ON_EIGHT)
    mesh = make_mesh(ON_EIGHT)
    shardings = state_shardings(nnx.eval_shape(lambda: job.build(nnx.Rngs(0))), OPTIMIZER, mesh=mesh, average=True)
    state = born(job.build, OPTIMIZER, shardings=shardings, seed=3)
    step = compile_step(make_train_step(job.loss, OPTIMIZER, average_decay=0.9), mesh=mesh, shardings=shardings)
    batch = place_batch({name: np.ones(shape, np.int32) for name, shape in job.batch.items()}, mesh)
    after, _ = step.lower(state, batch).compile({"xla_backend_optimization_level": 0})(state, batch)
    live = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(after))
    assert planned.memory.state == live
    params = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(after.params))
    assert planned.memory.gradients == params


def test_the_best_so_far_and_an_average_are_two():
    both = make_plan(replace(job_of(MeshConfig(data=1)), best=True), "h100").memory
    one = make_plan(job_of(MeshConfig(data=1)), "h100").memory
    assert sum(module.average for module in both.modules) == 2 * sum(module.average for module in one.modules)
    assert both.state - one.state == sum(module.parameters for module in one.modules)


@needs_eight
def test_modules_hold_their_parameters_and_twice_as_much_of_adam(planned):
    modules = {module.name: module for module in planned.memory.modules}
    inner = modules["inner"]
    assert inner.count == D * F + F
    assert inner.parameters == 4 * (D * F // 4 + F)  # the matrix is split over fsdp and tensor, the bias is whole
    assert inner.optimizer == 2 * inner.parameters == 2 * inner.average == 2 * inner.gradients
    assert modules["embedding"].parameters == 4 * 256 * D // 4
    assert planned.parameters == sum(module.count for module in modules.values()) - (256 - WORDS) * D


@pytest.mark.slow
@needs_eight
def test_activations_are_split_as_the_batch_is():
    def saved(number: int) -> dict[str, int]:
        return dict(measure_memory(job_of(MeshConfig(data=number))).activations)

    two, eight = saved(2), saved(8)
    assert eight.keys() >= {"embed", "feedforward", "loss"}
    assert {scope: 4 * size for scope, size in eight.items()} == two


def test_more_micro_batches_save_as_much_and_hold_a_second_tree_of_gradients():
    one, two = (measure_memory(job_of(MeshConfig(data=1), micro_batches=number)) for number in (1, 2))
    assert two.saved == one.saved
    assert two.state == one.state
    assert two.gradients == 2 * one.gradients


# FLOPs and communication.


@needs_eight
def test_the_flops_of_a_step_are_those_of_its_products(planned):
    # Each of the products is there once forward and twice backward; the table has 256 rows.
    assert planned.estimates[0].flops.total == 6 * ROWS * LENGTH * D * (2 * F + 256)


@needs_eight
def test_the_least_communication_is_what_the_parameters_and_activations_take(planned):
    split = 2 * D * F + 256 * D  # the matrices; biases and norms are whole on each device
    least = {(kind, axes): size for kind, axes, size in planned.communication.least}
    activations = 4 * ROWS * LENGTH // 4 * D
    assert least == {
        ("all-gather", ("fsdp",)): 2 * (1 / 2) * 4 * split / 2,
        ("reduce-scatter", ("fsdp",)): (1 / 2) * 4 * split / 2,
        ("all-reduce", ("data",)): 2 * (1 / 2) * 4 * split / 4,
        ("all-reduce", ("data", "fsdp")): 2 * (3 / 4) * 4 * (F + D + 2 * D),
        # For the block and for the vocabulary, one forward and one backward.
        ("all-reduce", ("tensor",)): 2 * (1 / 2) * 4 * activations,
    }


@needs_eight
def test_a_step_sends_over_each_axis_of_its_mesh_and_at_least_what_it_must(planned):
    communication = planned.communication
    assert {axis for row in communication.traffic for axis in row.axes} == {"data", "fsdp", "tensor"}
    assert communication.raw >= communication.counted >= communication.merged >= communication.least_total > 0
    assert communication.known
    assert communication.far == 0  # eight devices of one node


@pytest.mark.parametrize("length", [120, 200, 300])
def test_weights_of_causal_rows_are_told_also_where_they_are_taken_in_parts(length: int):
    config = DecoderConfig(vocab_size=64, width=16, num_heads=2, num_layers=1, feedforward_width=32, max_length=300)
    model = define(lambda rngs: Decoder(config, rngs=rngs))

    def loss(params, batch, key):
        return {"loss": model.merge(params)(batch["tokens"])[0].astype(jnp.float32).sum(), "weight": jnp.ones(())}

    job = Job(
        build=lambda rngs: Decoder(config, rngs=rngs),
        loss=loss,
        optimizer=OPTIMIZER,
        mesh=MeshConfig(data=1),
        batch={"tokens": (1, 3, length)},
    )
    seen = 3 * 2 * length * (length + 1) // 2 * 4  # rows, heads, and what a causal row sees
    assert seen <= measure_memory(job).squares <= 3 * 2 * seen


def test_one_device_sends_nothing():
    communication = measure_communication(job_of(MeshConfig(data=1)))
    assert communication.traffic == communication.least == ()


# The whole plan.


@needs_eight
def test_the_tables_have_what_a_plan_promises(planned):
    text = render(planned)
    for part in (
        "8 x h100 (data=2, fsdp=2, tensor=2)",
        f"{planned.parameters:,} parameters",
        "embedding",
        "state and gradients (exact)",
        "saved for the backward pass",
        "of 60.00 GB",
        "which XLA takes of 80.00 GB (XLA_CLIENT_MEM_FRACTION): ",
        "fits",
        "all-gather",
        "needed: reduce-scatter",
        "FLOPs a step",
        "tokens/s, MFU",
        "not calibrated",
    ):
        assert part in text, part


@needs_eight
def test_the_estimate_lies_between_full_overlap_and_none(planned):
    (estimate,) = planned.estimates
    seconds = estimate.seconds
    assert estimate.tokens == ROWS * LENGTH
    assert seconds.computing == pytest.approx(estimate.flops.total / 8 / (0.5 * 494.5e12))
    assert seconds.sending == pytest.approx(planned.communication.counted / 450e9)
    assert seconds.updating == (2 * planned.memory.state + planned.memory.gradients) / 3.35e12
    assert seconds.best == max(seconds.computing, seconds.sending) + seconds.updating
    assert seconds.worst == seconds.computing + seconds.sending + seconds.updating


@pytest.mark.slow
def test_what_does_not_fit_names_the_first_change_that_does(monkeypatch):
    job = job_of(MeshConfig(data=1))
    total = measure_memory(job).total
    memory = measure_memory(halve_rows(job)).total / USABLE + 1
    assert memory * USABLE < total
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "1")
    monkeypatch.setitem(DEVICES, "h100", dataclasses.replace(DEVICES["h100"], memory=memory))

    def never() -> Job:
        raise AssertionError("a change was tried after one that fits")

    def impossible() -> Job:
        return halve_rows(job_of(MeshConfig(data=1), rows=5))

    proposals = [("half of five rows", impossible), ("half the rows", lambda: halve_rows(job)), ("more", never)]
    found = make_plan(job, "h100", changes=proposals)
    assert not found.fits
    assert [(change.text, change.fits) for change in found.changes] == [
        ("half of five rows", False),
        ("half the rows", True),
    ]
    text = render(found)
    assert "does not fit" in text
    assert "with half of five rows: cannot be: rows must be even to be halved, got rows=5" in text
    assert f"with half the rows: {found.changes[1].total / 1e3:.2f} kB, fits" in text


def test_half_the_rows_are_the_same_update_in_twice_the_micro_batches():
    job = halve_rows(job_of(MeshConfig(data=1), micro_batches=3))
    assert set(job.batch.values()) == {(6, ROWS // 2, LENGTH)}


def test_twice_the_devices_along_fsdp():
    job = double_fsdp(job_of(MeshConfig(data=2, fsdp=3)))
    assert job.mesh == MeshConfig(data=2, fsdp=6)
    assert job.devices == 12


def test_a_mesh_without_enough_virtual_devices_is_an_error():
    needed = 2 * jax.device_count()
    with pytest.raises(ValueError, match=rf"must have a virtual device for each of the mesh's {needed}, got"):
        measure_memory(job_of(MeshConfig(data=needed)))


# Devices.


def test_an_unknown_device_names_the_nearest():
    with pytest.raises(ValueError, match=r"^device must be one of h100, .*, cpu, got h20. Nearest: h200\.$"):
        find_device("h20")
    assert find_device("cpu").peak("float32") is None
    assert find_device("cpu").memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


SHEETS = """\
            GB   bfloat16  float32  TB/s   GB/s  group  GB/s beyond
h100        80   989       494.5    3.35   450   8      50
h200        141  989       494.5    4.8    450   8      50
a100        80   312       156      2.04   300   8      25
b200        180  2250      1125     8      900   8      50
h100-pcie   80   756.5     378      2      -     1      64
h100-nvl    94   835.5     417.5    3.9    300   2      50
h800        80   989       494.5    3.35   200   8      50
h20-96gb    96   148       74       4      450   8      50
gh200       96   989       494.5    4      -     1      50
gh200-144gb 144  989       494.5    4.9    -     1      50
a100-40gb   40   312       156      1.555  300   8      25
a100-pcie   80   312       156      1.935  -     1      32
a100-pcie-40gb 40 312      156      1.555  -     1      32
gb200       186  2500      1250     8      900   72     50
l40s        48   362       183      0.864  -     1      32
l4          24   121       60       0.3    -     1      32
a40         48   149.7     74.8     0.696  -     1      32
a30         24   165       82       0.933  -     1      32
a10         24   125       62.5     0.6    -     1      32
rtx-4090    24   165.2     82.6     1.008  -     1      32
rtx-3090    24   71        35.6     0.936  -     1      32
tpu-v4      32   275       275      1.2    150   4096   -
tpu-v5e     16   197       197      0.819  100   256    -
tpu-v5p     95   459       459      2.765  300   8960   -
tpu-v6e     32   918       918      1.64   224   256    -
"""


def test_devices_are_as_their_data_sheets_say():
    rows = [line.split() for line in SHEETS.splitlines()[1:]]
    scales = (1e9, 1e12, 1e12, 1e12, 1e9, 1, 1e9)
    fields = ("memory", "bfloat16", "float32", "memory_bandwidth", "interconnect", "group", "between")
    assert [name for name, *_ in rows] == list(DEVICES)
    for name, *figures in rows:
        device = DEVICES[name]
        assert {field: getattr(device, field) for field in fields} == {
            field: None if figure == "-" else pytest.approx(float(figure) * scale)
            for field, figure, scale in zip(fields, figures, scales, strict=True)
        }, name
        assert (device.peak("bfloat16"), device.peak("float32")) == (device.bfloat16, device.float32)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H20", "h20-96gb"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("TPU v4", "tpu-v4"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200 NVL", None),
        ("TPU v5 lite", "tpu-v5e"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA A100-SXM-64GB", None),
        ("cpu", None),
    ],
)
def test_a_device_is_found_by_what_jax_calls_it(kind, name):
    found = device_of_kind(kind)
    assert (found and found.name) == name
    named = [device for device in DEVICES.values() if re.search(device.kind, kind)]
    assert len(named) == (name is not None or " MIG " in kind)


def test_a_gpu_gives_xla_three_quarters_of_its_memory_unless_told(monkeypatch):
    for name in MEMORY_SHARES:
        monkeypatch.delenv(name, raising=False)
    assert DEVICES["h100"].allotted == 60e9
    assert DEVICES["tpu-v4"].allotted == DEVICES["tpu-v4"].memory
    for name, share in zip(reversed(MEMORY_SHARES), ("0.8", "0.9"), strict=True):
        monkeypatch.setenv(name, share)
        assert DEVICES["h100"].allotted == pytest.approx(float(share) * 80e9)
    monkeypatch.setenv(MEMORY_SHARES[0], "most")
    with pytest.raises(ValueError, match=r"^XLA_CLIENT_MEM_FRACTION must be a share of the memory, got 'most'\.$"):
        _ = DEVICES["h100"].allotted


def test_devices_of_one_name_differ_in_memory():
    assert device_of_kind("NVIDIA A100-SXM4-40GB").memory == 40e9
    assert device_of_kind("NVIDIA A100-SXM4-80GB").memory == 80e9
    assert all(name == device.name for name, device in DEVICES.items())


@pytest.mark.parametrize(
    ("platform", "compute_capability", "asked", "said"),
    [
        ("cpu", None, None, "float32 compute, float32 parameters"),
        ("gpu", "7.0", None, "float32 compute, float32 parameters"),
        ("gpu", "gfx942", None, "float32 compute, float32 parameters"),
        ("gpu", "8.0", None, "float32 compute with products of matrices in TF32 (JAX_DEFAULT_MATMUL_PRECISION="),
        ("gpu", "10.0", "high", "float32 compute with products of matrices in TF32 ("),
        ("gpu", "9.0", "highest", "float32 compute, float32 parameters"),
        ("gpu", "9.0", "BF16_BF16_F32", "float32 compute with products of matrices in BF16_BF16_F32 ("),
        ("tpu", None, None, "float32 compute with products of matrices in one pass of bfloat16 ("),
        ("tpu", None, "high", "float32 compute with products of matrices in three passes of bfloat16 ("),
        ("tpu", None, "float32", "float32 compute with products of matrices in six passes of bfloat16, float32 param"),
    ],
)
def test_precision_says_what_matrices_are_multiplied_in(platform, compute_capability, asked, said):
    device = {"platform": platform, "compute_capability": compute_capability, "asked": asked}
    assert describe_precision("float32", **device).startswith(said)
    assert describe_precision("bfloat16", **device) == "bfloat16 compute, float32 parameters"


class OneBatch:
    """What a start tells of batches."""

    shapes, padding_share, optimum, batches_per_epoch = ((1, 8, 4),), 0.0, 0.0, 2.0


def test_the_start_says_the_precision_of_the_device(monkeypatch):
    class Ampere:
        device_kind, compute_capability = "NVIDIA A100-SXM4-40GB", "8.0"

    model = Seq2SeqConfig(source_vocab_size=20, target_vocab_size=20, width=16, num_heads=2, feedforward_width=8)
    definition = define(lambda rngs: Seq2Seq(model, rngs=rngs))
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    placed = place(Learner(definition, lambda *_: {}, optax.sgd(0.1), optax.constant_schedule(0.1)), mesh)
    assert start_facts(model, placed, OneBatch)["precision"] == "float32 compute, float32 parameters"
    monkeypatch.setattr("lmx.experiment.attention_facts", lambda *_, **__: {})  # asks the device for more
    monkeypatch.setattr(jax, "devices", lambda *_: [Ampere()])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "in TF32" in start_facts(model, placed, OneBatch)["precision"]


# The command line.


def test_plan_and_devices_are_taken_out_of_a_command_line():
    arguments = ["preset", "--plan", "h100", "--model.width", "8", "--devices=16"]
    assert split_arguments(arguments) == ("h100", 16, ["preset", "--model.width", "8"])
    assert split_arguments(["preset", "--updates", "3"]) == (None, None, ["preset", "--updates", "3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p", "--plan"], "--plan must have a value"),
        (["p", "--plan", "--devices", "8"], "--plan must have a value"),
        (["p", "--devices", "8"], "--devices must come with --plan"),
        (["p", "--plan", "h100", "--devices", "0"], "--devices must be a positive number, got 0"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_arguments(arguments)


def test_an_open_size_of_the_mesh_takes_the_devices_that_are_left():
    assert resolve_mesh(MeshConfig(fsdp=4), 16) == MeshConfig(data=4, fsdp=4)
    assert resolve_mesh(MeshConfig(fsdp=4), None) == MeshConfig(data=1, fsdp=4)
    with pytest.raises(ValueError, match="mesh sizes must multiply to devices=6, got data=-1, fsdp=4"):
        resolve_mesh(MeshConfig(fsdp=4), 6)


@pytest.mark.slow
def test_the_translation_experiment_plans_a_preset_without_reading_text(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "experiments" / "translation.py"), "multi30k", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)

    done = run("--plan", "a100", "--vocab-size", "500", "--model.num-encoder-layers", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    for part in (
        "a vocabulary of 500 is assumed",
        "Plan for 1 x a100 (one device), float32 compute",
        "decoder/blocks/memory_attention",
        "a fused one does not",
        "communication: none, there is one device",
        "batch 2x32x128",
        "batch 2x128x32",
        "not calibrated",
    ):
        assert part in done.stdout, part
    assert not list(tmp_path.iterdir())
    wrong = run("--plan", "a1000")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: device must be one of")


PLAN_OF_70B = """
import json, resource
import jax
from flax import nnx
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.optimization import adam, constant
from lmx.plan import make_plan
from lmx.plan.command import use_virtual_devices
from lmx.plan.figures import Job
from lmx.sharding.mesh import MeshConfig

use_virtual_devices(256)
config = DecoderConfig(
    vocab_size=128256, width=8192, feedforward_width=28672, num_heads=64, num_kv_heads=8, num_layers=80, remat="full",
    dtype="bfloat16",
)
definition = nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))

def loss(params, batch, key):
    model = nnx.merge(definition, params)
    states, _ = model(batch["tokens"])
    table, target = model.output_table(), batch["target"]
    return cross_entropy(states, table, target, target != 0, vocab_size=config.vocab_size)._asdict()

job = Job(
    build=lambda rngs: Decoder(config, rngs=rngs), loss=loss, optimizer=adam(constant(1e-4)), dtype="bfloat16",
    mesh=MeshConfig(data=1, fsdp=64, tensor=4), batch=dict.fromkeys(("tokens", "target"), (1, 256, 4096)),
)
plan = make_plan(job, "h100")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"parameters": plan.parameters, "state": plan.memory.state, "fits": plan.fits, "peak": peak}))
"""


@pytest.mark.slow
def test_a_model_of_70b_parameters_on_256_devices_is_planned_in_3_gb():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PLAN_OF_70B]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] == 70_553_706_496  # Llama 3's
    assert found["state"] == pytest.approx(3 * 4 * found["parameters"] / 256, rel=0.01)
    assert found["fits"]
    assert found["peak"] < 3e9


# Out of memory.


def test_a_device_out_of_memory_ends_with_the_table_and_one_line(capsys):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore")
    with (
        pytest.raises(SystemExit, match=r"^error: a device is out of memory .*allocate 9 bytes") as caught,
        explain_out_of_memory(lambda: "the table"),
    ):
        raise error
    assert caught.value.code != 0
    assert capsys.readouterr().out == "the table\n"


def test_other_errors_of_a_device_stay_as_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explain_out_of_memory(lambda: "the table"):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")


def test_the_plan_of_a_command_is_made_by_a_process_of_its_own(monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nprint(os.environ['JAX_PLATFORMS'], *sys.argv[1:])\n")
    monkeypatch.setattr(sys, "argv", [str(script), "preset"])
    assert plan_of_this_command() == f"cpu preset --plan cpu --devices {jax.device_count()}\n"
    script.write_text("raise SystemExit('error: no')\n")
    assert plan_of_this_command() == "There is no plan: error: no"


def test_a_script_that_does_not_know_plan_is_not_started_again_and_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "preset", "--plan", "cpu"])
    assert plan_of_this_command().startswith("There is no plan")


def test_keys_and_small_types_are_counted_too():
    job = job_of(MeshConfig(data=1))

    def loss(params, part, key):
        scale = jax.random.bernoulli(key, 0.5, (3,)).astype(jnp.bfloat16)
        table = params["embedding"]["table"][:3]
        return {"loss": jnp.sin(table * scale[:, None]).sum(), "weight": jnp.ones(())}

    assert measure_memory(dataclasses.replace(job, loss=loss)).saved >= 3 * D * 4


# What goes with the micro-batches, with the tokens, and beyond a group of devices.


@needs_eight
def test_parameters_are_gathered_for_each_micro_batch_and_meet_over_data_once():
    def least(micro_batches: int) -> dict:
        found = summarize_communication(job_of(ON_EIGHT, micro_batches=micro_batches), [])
        return {(kind, axes): size for kind, axes, size in found.least}

    one, three = least(1), least(3)
    assert one.keys() == three.keys()
    for kind, axes in one:
        often = 3 if axes in (("fsdp",), ("tensor",)) else 1
        assert three[kind, axes] == pytest.approx(often * one[kind, axes]), (kind, axes)


@needs_eight
def test_of_a_usual_batch_only_what_goes_with_its_tokens_is_less(planned):
    job = job_of(ON_EIGHT)
    communication, device = planned.communication, find_device("h100")
    with_tokens = sum(row.counted for row in communication.traffic if "tensor" in row.axes)
    assert 0 < with_tokens < communication.counted
    whole, third = (
        plan_package._estimate(job, {"tokens": (1, ROWS, length)}, device, planned.memory, communication)
        for length in (LENGTH, LENGTH // 3)
    )
    assert (whole.shape, third.shape) == ((1, ROWS, LENGTH), (1, ROWS, LENGTH // 3))
    assert third.tokens == whole.tokens / 3
    assert whole.seconds == planned.estimates[0].seconds
    expected = (communication.counted - with_tokens * 2 / 3) / device.interconnect
    assert third.seconds.sending == pytest.approx(expected)
    assert third.seconds.computing == pytest.approx(whole.seconds.computing / 3)
    assert third.seconds.updating == whole.seconds.updating


@needs_eight
def test_what_leaves_a_group_goes_over_the_slower_links(planned):
    job, device = job_of(ON_EIGHT), find_device("h100")
    assert device.between < device.interconnect
    far = planned.communication.counted / 4
    split = dataclasses.replace(planned.communication, far=far)
    sending = lambda device: plan_package._estimate(job, job.batch, device, planned.memory, split).seconds.sending  # noqa: E731
    assert sending(device) == pytest.approx(3 * far / device.interconnect + far / device.between)
    # Where nothing is known of them, they are taken for the same.
    assert sending(dataclasses.replace(device, between=None)) == pytest.approx(4 * far / device.interconnect)
    # A card that is joined to no other sends all of it over the bus.
    assert sending(find_device("l4")) == pytest.approx(4 * far / find_device("l4").between)


def test_collectives_reach_beyond_a_group_of_devices_by_the_places_of_their_own():
    near, far = (
        Collective(kind="all-reduce", axes=("data",), devices=2, bytes=512, times=3, reach=reach) for reach in (4, 5)
    )
    found = summarize_communication(job_of(MeshConfig(data=1)), [near, far], group=4)
    assert found.far == far.counted == found.counted / 2
    (row,) = found.traffic
    assert (row.times, row.counted) == (6, near.counted + far.counted)
