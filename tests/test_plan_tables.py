"""A plan is printed as it is: each figure in its unit, in its column, and said of what it is of."""

from dataclasses import replace

import pytest

from lmx.costs import Flops
from lmx.devices import Device
from lmx.plan.figures import Change, Communication, Estimate, Memory, Module, Plan, Seconds, Traffic
from lmx.plan.tables import render
from lmx.plan.working import Fullest, Held

DEVICE = Device(
    name="card",
    kind="",
    memory=40e9,
    bfloat16=300e12,
    float32=150e12,
    memory_bandwidth=2e12,
    interconnect=400e9,
    group=4,
    between=25e9,
)
MODULES = (
    Module(name="blocks", count=3_000_000, parameters=6_000_000, optimizer=12_000_000, average=0, gradients=6_000_000),
    Module(name="embedding", count=1000, parameters=4_000_000, optimizer=8_000_000, average=500, gradients=4_000_000),
    Module(name="counters", count=0, parameters=0, optimizer=12, average=0, gradients=0),
)
HELD = (
    Held(size=9_000_000, shape="f32[8,64]{1,0}", scope=""),
    Held(size=5_000_000, shape="(s32[], f32[8])", scope=""),
    Held(size=3_000_000, shape="f32[5]{0}", scope=""),
    Held(size=2_000_000, shape="f32[4]{0}", scope=""),
)
MEMORY = Memory(
    modules=MODULES,
    activations=tuple((f"scope{number}", 1_000_000 * (14 - number)) for number in range(14)),
    squares=30_000_000,
    fullest=Fullest(size=125_000_000, held=HELD),
)
COMMUNICATION = Communication(
    traffic=(
        Traffic(kind="all-gather", axes=("fsdp",), times=1200, raw=3e9, counted=3e9, merged=3e9),
        Traffic(kind="all-reduce, only sliced", axes=("fsdp",), times=7, raw=4e9, counted=2e9, merged=1e9),
        Traffic(kind="all-reduce", axes=("data", "fsdp"), times=3, raw=4e6, counted=3e6, merged=2e6),
    ),
    least=(
        ("all-gather", ("fsdp",), 2.5e9),
        ("reduce-scatter", ("fsdp",), 1.5e9),
        ("all-reduce", ("tensor",), 5e6),
    ),
    known=False,
    far=1e9,
    widened=1.5e9,
)
ESTIMATES = (
    Estimate(
        shape=(2, 16, 128),
        tokens=4096,
        flops=Flops(total=8e15, recomputed=2e15, unknown=("a while loop counts once",)),
        seconds=Seconds(computing=2.0, sending=0.5, updating=0.0125),
    ),
    Estimate(
        shape=(2, 64, 32),
        tokens=4000,
        flops=Flops(total=4e14),
        seconds=Seconds(computing=0.1, sending=0.4, updating=0.1),
    ),
)
PLAN = Plan(
    device=DEVICE,
    mesh=(("data", 2), ("fsdp", 4), ("tensor", 1)),
    dtype="bfloat16",
    parameters=2_900_000,
    memory=MEMORY,
    estimates=ESTIMATES,
    communication=COMMUNICATION,
)

SAID = """\
Plan for 8 x card (data=2, fsdp=4), bfloat16 compute, float32 parameters
2,900,000 parameters, without the padding of vocabulary tables

memory of a device               count  parameters  optimizer  average  gradients     total
-------------------------------------------------------------------------------------------
blocks                       3,000,000     6.00 MB   12.00 MB        0    6.00 MB  24.00 MB
embedding                        1,000     4.00 MB    8.00 MB    500 B    4.00 MB  16.00 MB
counters                                         0       12 B        0          0      12 B
-------------------------------------------------------------------------------------------
state and gradients (exact)  3,001,000    10.00 MB   20.00 MB    500 B   10.00 MB  40.00 MB

saved for the backward pass, by scope, of 16x128
-----------------------------------------------------------
scope0                                             14.00 MB
scope1                                             13.00 MB
scope2                                             12.00 MB
scope3                                             11.00 MB
scope4                                             10.00 MB
scope5                                              9.00 MB
scope6                                              8.00 MB
scope7                                              7.00 MB
scope8                                              6.00 MB
scope9                                              5.00 MB
scope10                                             4.00 MB
scope11                                             3.00 MB
2 more                                              3.00 MB
-----------------------------------------------------------
activations                                       105.00 MB

at the fullest moment of a step: 125.00 MB beside the state \
(largest: 9.00 MB f32[8,64]; 5.00 MB in a loop; 3.00 MB f32[5]),
10.00 MB more than gradients and activations together
155.00 MB of 40.00 GB (0.4%): fits, where a tenth is left free. \
Workspaces of card's kernels are not known here and not in it.
Of the activations 30.00 MB are attention's weights and masks, \
which XLA's kernel saves and a fused one does not: 125.00 MB without.

sent by a device in a step    over  times      raw   counted   merged    least  counted/least
---------------------------------------------------------------------------------------------
all-gather                    fsdp  1,200  3.00 GB   3.00 GB  3.00 GB
all-reduce, only sliced       fsdp      7  4.00 GB  2.00 GB*  1.00 GB
  needed: all-gather          fsdp                                     2.50 GB
  needed: reduce-scatter      fsdp                                     1.50 GB
                              fsdp                   5.00 GB           4.00 GB           1.25
  needed: all-reduce        tensor                                     5.00 MB
                            tensor                         0           5.00 MB
small ones together                     3  4.00 MB   3.00 MB  2.00 MB
---------------------------------------------------------------------------------------------
all                                        7.00 GB   5.00 GB  4.00 GB  4.00 GB           1.25
counted: * an all-reduce of which only slices are used counts as a reduce-scatter.
merged: all-reduces that are only added up count as one, too, as accelerators' compilers make them.
Gradients are summed over devices in float32: 1.50 GB of the counted bytes, which gradient_sum="compute" saves.
Some loops have an unknown length and count once.

batch 2x16x128: 4,096 padded tokens, 8e+15 FLOPs a step
  25.0% of them are done again for the backward pass; MFU leaves these out
  a while loop counts once
  2.01 s to 2.51 s a step (computing 2.00 s, sending 500 ms, updating 12.5 ms)
  1,630 to 2,035 tokens/s, MFU 99.5% to 124.2%
batch 2x64x32: 4,000 padded tokens, 4e+14 FLOPs a step
  500 ms to 600 ms a step (computing 100 ms, sending 400 ms, updating 100 ms)
  6,667 to 8,000 tokens/s, MFU 27.8% to 33.3%
not calibrated: card was not measured. Assumed: products of matrices at 50% of 300 TFLOP/s;
a device sends 400.00 GB/s, 25.00 GB/s beyond 4 devices; the state is read and written once at 2.00 TB/s.
The shorter time has communication and computing at the same time, the longer one after the other. \
Latencies are not in it.
"""


def test_a_plan_says_each_figure_of_what_it_is_of():
    assert render(PLAN).splitlines() == SAID.splitlines()


def test_what_does_not_fit_says_what_was_tried():
    memory = replace(MEMORY, squares=5_000_000)  # less than a twentieth of the activations
    changes = (
        Change(text="half the rows", total=None, fits=False, why_not="rows must be even"),
        Change(text="more devices", total=149_000_000, fits=False),
    )
    small = replace(DEVICE, memory=155e6)
    said = render(replace(PLAN, device=small, memory=memory, changes=changes))
    assert "155.00 MB of 155.00 MB (100.0%): does not fit, where a tenth" in said
    assert "attention's weights" not in said
    assert said.partition("not in it.\n")[2].startswith(
        "  with half the rows: cannot be: rows must be even\n"
        "  with more devices: 149.00 MB, does not fit\n"
        "  none of these is enough alone: use more devices, or several of them together\n"
    )
    found = replace(PLAN, device=small, changes=(replace(changes[1], total=139_000_000, fits=True),))
    assert "  with more devices: 139.00 MB, fits\n" in render(found)
    assert "enough alone" not in render(found)


@pytest.mark.parametrize(("squares", "told"), [(5_200_000, False), (5_300_000, True)])
def test_weights_of_attention_are_told_from_a_twentieth_of_the_activations_on(squares, told):
    said = render(replace(PLAN, memory=replace(MEMORY, squares=squares)))
    assert ("are attention's weights and masks" in said) == told


@pytest.mark.parametrize(("memory", "fits"), [(172.3e6, True), (172.1e6, False)])
def test_a_tenth_of_the_memory_is_left_free(memory, fits):
    assert replace(PLAN, device=replace(DEVICE, memory=memory)).fits == fits


def test_one_device_sends_nothing_and_says_so():
    nothing = Communication(traffic=(), least=(), known=True, far=0.0)
    said = render(replace(PLAN, mesh=(("data", 1),), communication=nothing))
    assert "Plan for 1 x card (one device), bfloat16" in said
    assert "communication: none, there is one device" in said


def test_what_is_next_to_nothing_has_no_note_and_known_loops_neither():
    said = render(replace(PLAN, communication=replace(COMMUNICATION, widened=4e6, known=True)))
    assert "summed over devices in float32" not in said
    assert "unknown length" not in said


def test_a_device_without_a_data_sheet_has_no_time():
    unknown = tuple(replace(estimate, seconds=None) for estimate in ESTIMATES)
    device = replace(DEVICE, bfloat16=None)
    said = render(replace(PLAN, device=device, estimates=unknown))
    assert said.endswith("no estimate of time: there is no data sheet of card for bfloat16\n")
    assert "not calibrated" not in said
    for missing in ({"memory_bandwidth": None}, {"interconnect": None, "between": None}):
        assert "no estimate of time" in render(replace(PLAN, device=replace(DEVICE, **missing), estimates=unknown))


def test_a_card_that_stands_alone_sends_over_the_bus():
    said = render(replace(PLAN, device=replace(DEVICE, interconnect=None, group=1, between=32e9)))
    assert "a device sends 32.00 GB/s; the state is read" in said
    assert "no estimate of time" not in said
