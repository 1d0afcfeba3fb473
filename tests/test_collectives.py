import numpy as np
import pytest

from lmx.collectives import read_collectives
from lmx.programs import elements_of, parse_program, size_of

MESH = {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
ALL = "replica_groups=[1,8]<=[8]"


def module(*lines: str, head: str = "") -> str:
    """Wraps lines into a program whose parameter is f32[8,16]."""
    body = "\n".join(f"  {line}" for line in ("%p = f32[8,16]{1,0} parameter(0)", *lines))
    return (
        f"HloModule jit_step, num_partitions=8\n\n{head}ENTRY %main_spmd (p: f32[8,16]) -> f32[8,16] {{\n{body}\n}}\n"
    )


def read(*lines: str, head: str = ""):
    return read_collectives(module(*lines, head=head), MESH)


# How much is sent: 8 x 16 x 4 = 512 bytes on a device.


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("%x = f32[64,16]{1,0} all-gather(%p), channel_id=1, " + ALL + ", dimensions={0}", 7 * 512),
        (
            "%x = f32[1,16]{1,0} reduce-scatter(%p), channel_id=1, " + ALL + ", dimensions={0}, to_apply=%add",
            7 / 8 * 512,
        ),
        ("%x = f32[8,16]{1,0} all-reduce(%p), channel_id=1, " + ALL + ", to_apply=%add", 2 * 7 / 8 * 512),
        ("%x = f32[8,16]{1,0} all-to-all(%p), channel_id=1, " + ALL + ", dimensions={0}", 7 / 8 * 512),
        ("%x = f32[8,16]{1,0} collective-permute(%p), channel_id=1, source_target_pairs={{0,0},{1,2},{2,1}}", 512),
    ],
)
def test_each_kind_sends_what_a_ring_sends(line, sent):
    (found,) = read(line)
    assert found.raw == found.counted == found.merged == pytest.approx(sent)
    assert found.times == 1
    assert found.known


def test_a_type_is_counted_in_its_own_bytes():
    convert = "%c = bf16[8,16]{1,0} convert(%p)"
    (found,) = read(convert, "%x = bf16[64,16]{1,0} all-gather(%c), channel_id=1, " + ALL + ", dimensions={0}")
    assert found.raw == 7 * 256


def test_several_operands_are_counted_together():
    (found,) = read(
        "%half = bf16[8,16]{1,0} convert(%p)",
        "%x = (f32[8,16]{1,0}, /*index=1*/bf16[8,16]{1,0}) all-reduce(%p, %half), " + ALL + ", to_apply=%add",
    )
    assert found.bytes == 512 + 256


# Over which axes: device d is (d // 4, d % 4) of the mesh's data and fsdp.


@pytest.mark.parametrize(
    ("groups", "axes", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("{}", ("data", "fsdp"), 8),
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",), 4),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_0'}", ("data",), 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", ("data", "fsdp"), 8),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", ("fsdp",), 4),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", ("data",), 2),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=(0,4,1,5,2,6,3,7) {'axis_1'}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", ("fsdp",), 4),
    ],
)
def test_groups_of_every_form_are_mapped_to_the_axes_that_vary(groups, axes, devices):
    (found,) = read(f"%x = f32[8,16]{{1,0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add")
    assert found.axes == axes
    assert found.devices == devices
    assert found.raw == pytest.approx(2 * (devices - 1) / devices * 512)


def test_the_reach_of_a_group_is_how_far_its_devices_lie_apart():
    (found,) = read("%x = f32[8,16]{1,0} all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add")
    assert found.reach == 5  # such as devices 0 and 4


def test_groups_of_one_device_send_nothing():
    assert read("%x = f32[8,16]{1,0} all-reduce(%p), replica_groups=[8,1]<=[8], to_apply=%add") == []


def test_a_form_of_groups_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="replica groups must be in a form that is known"):
        read("%x = f32[8,16]{1,0} all-reduce(%p), replica_groups=mesh['a'=8], to_apply=%add")


@pytest.mark.parametrize(
    ("shape", "elements", "size"),
    [
        ("f32[8,16]{1,0}", 128, 512),
        ("pred[3]", 3, 3),
        ("bf16[2,3]{1,0}", 6, 12),
        ("s4[3]", 3, 2),  # 12 bits begin a second byte
        ("f8e4m3fn[5]", 5, 5),
        ("c64[2]", 2, 16),
        ("c128[2]", 2, 32),
        ("u32[]", 1, 4),
        ("f32[0,4]", 0, 0),
        ("token[]", 1, 0),
        ("(s32[], f32[8,16]{1,0}, (f16[2]))", 131, 520),
        ("f32[<=4,2]", 8, 32),
    ],
)
def test_a_shape_says_its_elements_and_its_bytes(shape, elements, size):
    assert (elements_of(shape), size_of(shape)) == (elements, size)


def test_a_type_that_is_none_of_xlas_is_an_error():
    with pytest.raises(ValueError, match=r"^element type must be one of XLA's, got z9\.$"):
        size_of("z9[3]")


def test_an_instruction_has_its_parts_with_and_without_percent_signs():
    lines = (
        "%x = f32[] constant(-1.5)",
        "ROOT %y = f32[8,16]{1,0} add(%p, /*index=1*/%p), to_apply=%sum, meta={a}",
    )
    found, entry = parse_program(module(*lines))
    assert entry == "main_spmd"
    computation = found[entry]
    assert (computation.root, list(computation.instructions)) == ("y", ["p", "x", "y"])
    root = computation.instructions["y"]
    assert (root.op, root.shape, root.operands, root.root) == ("add", "f32[8,16]{1,0}", ["p", "p"], True)
    assert (root.attribute("to_apply"), root.attribute("apply"), root.attribute("none")) == ("sum", None, None)
    assert [user.name for user in computation.users["p"]] == ["y", "y"]
    assert (computation.instructions["x"].inside, computation.instructions["x"].operands) == ("-1.5", [])
    plain, _ = parse_program("HloModule m\n\nENTRY e {\n  a.1 = f32[2] iota()\n  ROOT b = f32[2] add(a.1, a.1)\n}\n")
    assert plain["e"].instructions["b"].operands == ["a.1", "a.1"]


def test_a_text_without_an_entry_is_an_error():
    with pytest.raises(ValueError, match="ENTRY"):
        read_collectives("HloModule nothing\n", MESH)


# How often.

LOOP = """%body (t: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {{
  %t = (s32[], f32[8,16]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %one = s32[] constant({step})
  %next = s32[] add(%i, %one)
  %v = f32[8,16]{{1,0}} get-tuple-element(%t), index=1
  %r = f32[8,16]{{1,0}} all-reduce(%v), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %out = (s32[], f32[8,16]{{1,0}}) tuple(%next, %r)
}}

%condition (u: (s32[], f32[8,16])) -> pred[] {{
  %u = (s32[], f32[8,16]{{1,0}}) parameter(0)
  %j = s32[] get-tuple-element(%u), index=0
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%j, %limit), direction={direction}
}}

"""
START = (
    "%zero = s32[] constant(0)",
    "%start = (s32[], f32[8,16]{1,0}) tuple(%zero, %p)",
)
WHILE = "%loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body"


def test_a_scan_counts_as_often_as_it_runs():
    (found,) = read(*START, WHILE, head=LOOP.format(step=1, direction="LT"))
    assert (found.times, found.known) == (6, True)
    assert found.raw == pytest.approx(6 * 2 * 3 / 4 * 512)


@pytest.mark.parametrize(("first", "times"), [(2, 4), (-1, 7), (9, 0)])
def test_a_loop_runs_from_where_its_counter_begins(first, times):
    start = (START[0].replace("constant(0)", f"constant({first})"), START[1])
    (found,) = read(*start, WHILE, head=LOOP.format(step=1, direction="LT"))
    assert found.raw == pytest.approx(max(times, 1) * 2 * 3 / 4 * 512)


def test_every_branch_of_a_conditional_counts_in_either_form():
    head = "".join(
        f"""%{name} (v: f32[8,16]) -> f32[8,16] {{
  %v.{name} = f32[8,16]{{1,0}} parameter(0)
  ROOT %r.{name} = f32[8,16]{{1,0}} all-reduce(%v.{name}), replica_groups={groups}, to_apply=%add
}}

"""
        for name, groups in (("one", "[2,4]<=[8]"), ("other", "[4,2]<=[2,4]T(1,0)"))
    )
    for form in (
        "conditional(%i, %p, %p), branch_computations={%one, %other}",
        "conditional(%i, %p, %p), true_computation=%one, false_computation=%other",
    ):
        found = read("%i = s32[] constant(0)", f"%x = f32[8,16]{{1,0}} {form}", head=head)
        assert [each.axes for each in found] == [("fsdp",), ("data",)]


def test_a_collective_that_is_only_begun_counts_and_its_end_does_not():
    (found,) = read(
        "%s = f32[8,16]{1,0} all-reduce-start(%p), replica_groups=[2,4]<=[8], to_apply=%add",
        "%d = f32[8,16]{1,0} all-reduce-done(%s)",
    )
    assert (found.kind, found.raw) == ("all-reduce", pytest.approx(2 * 3 / 4 * 512))


def test_what_xla_says_of_a_loop_counts():
    said = WHILE + ', backend_config={"known_trip_count":{"n":"9"}}'
    (found,) = read(*START, said, head=LOOP.format(step=1, direction="NE"))
    assert (found.times, found.known) == (9, True)


@pytest.mark.parametrize("changed", [{"step": 2, "direction": "LT"}, {"step": 1, "direction": "NE"}])
def test_a_loop_of_another_form_counts_once_and_says_so(changed):
    (found,) = read(*START, WHILE, head=LOOP.format(**changed))
    assert (found.times, found.known) == (1, False)


def test_a_called_function_counts_where_it_is_called():
    head = """%inner (v: f32[8,16]) -> f32[8,16] {
  %v = f32[8,16]{1,0} parameter(0)
  ROOT %r = f32[8,16]{1,0} all-reduce(%v), replica_groups=[2,4]<=[8], to_apply=%add
}

"""
    calls = [f"%call.{i} = f32[8,16]{{1,0}} call(%p), to_apply=%inner" for i in range(3)]
    assert len(read(*calls, head=head)) == 3


# All-reduces that are more than they need to be.

REDUCE = "%r = f32[8,16]{1,0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add"
SLICE = "%s = f32[2,16]{1,0} dynamic-slice(%c, %i, %z), dynamic_slice_sizes={2,16}"
CONVERT = "%c = bf16[8,16]{1,0} convert(%r)"


def places(table: str) -> tuple[str, ...]:
    """Where each device's slice begins, as the partitioner writes it: a table read at the device's number."""
    return (
        "%me = u32[] partition-id()",
        f"%table = s32[8]{{0}} constant({table})",
        "%place = s32[1]{0} dynamic-slice(%table, %me), dynamic_slice_sizes={1}",
        "%i = s32[] reshape(%place)",
        "%z = s32[] constant(0)",
    )


OWN = places("{0, 2, 4, 6, 0, 2, 4, 6}")  # the four devices of a group have a quarter each


def test_an_all_reduce_of_which_only_a_slice_is_used_counts_as_a_reduce_scatter():
    (found,) = read(REDUCE, *OWN, CONVERT, SLICE)
    assert found.sliced
    assert found.counted == found.raw / 2
    assert found.raw == pytest.approx(2 * 3 / 4 * 512)


@pytest.mark.parametrize(
    "place",
    [
        "%i = s32[] multiply(%n, %two)",  # 0, 2, 4, ... by the device's number
        "%i = s32[] subtract(%n, %two)",  # other places on each device
        "%i = s32[] add(%n, %two)",
        "%i = s32[] add(%n, %less)",
    ],
)
def test_places_that_are_computed_from_the_devices_number_are_known(place):
    constants = ("%two = s32[] constant(2)", "%less = s32[] constant(-2)", "%z = s32[] constant(0)")
    numbers = ("%n = u32[] partition-id()", *constants)
    (found,) = read(REDUCE, *numbers, place, CONVERT, SLICE)
    assert found.sliced


@pytest.mark.parametrize(
    ("place", "sliced"),
    [("multiply(%n, %none)", False), ("subtract(%n, %n)", False), ("add(%n, %less)", False), ("add(%n, %n)", True)],
)
def test_places_that_all_devices_share_are_no_slices_of_their_own(place, sliced):
    numbers = (
        "%n = u32[] partition-id()",
        "%none = s32[] constant(0)",
        "%less = s32[] subtract(%none, %n)",
        "%z = s32[] constant(0)",
    )
    (found,) = read(REDUCE, *numbers, f"%i = s32[] {place}", CONVERT, SLICE)
    assert found.sliced == sliced


@pytest.mark.parametrize(
    "lines",
    [
        (REDUCE, *OWN, CONVERT, SLICE, "%more = f32[8,16]{1,0} negate(%r)"),  # used whole elsewhere
        (REDUCE, *OWN, CONVERT, SLICE.replace("[2,16]", "[4,16]").replace("{2,16}", "{4,16}")),  # half, of 4 devices
        (REDUCE, *OWN, CONVERT.replace("%c", "ROOT %c"), SLICE),  # handed out whole as well
        (REDUCE, *places("{0, 0, 2, 2, 4, 4, 6, 6}"), CONVERT, SLICE),  # two devices of a group take the same
        (REDUCE, CONVERT, "%s = bf16[2,16]{1,0} slice(%c), slice={[0:2], [0:16]}"),  # all devices take the same
        (REDUCE, *OWN, CONVERT, SLICE, "%j = s32[] add(%i, %i)", SLICE.replace("%s", "%t").replace("%i", "%j")),  # two
        (REDUCE,),
    ],
)
def test_an_all_reduce_that_is_used_whole_counts_as_it_stands(lines):
    (found,) = read(*lines)
    assert not found.sliced
    assert found.counted == found.raw


def test_all_reduces_that_are_only_added_up_are_merged_into_one():
    other = "%q = f32[8,16]{1,0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add"
    third = "%m = f32[8,16]{1,0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add"
    found = read(REDUCE, other, third, "%a = f32[8,16]{1,0} add(%r, %q)", "ROOT %b = f32[8,16]{1,0} add(%a, %m)")
    assert sum(one.counted for one in found) == sum(one.raw for one in found)
    assert sum(one.merged for one in found) == pytest.approx(found[0].raw)


def test_all_reduces_over_other_groups_or_with_other_uses_are_not_merged():
    over_data = "%q = f32[8,16]{1,0} all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add"
    total = "ROOT %a = f32[8,16]{1,0} add(%r, %q)"
    found = read(REDUCE, over_data, total)
    assert [one.merged for one in found] == [one.raw for one in found]
    found = read(REDUCE, REDUCE.replace("%r", "%q"), "%n = f32[8,16]{1,0} negate(%q)", total)
    assert [one.merged for one in found] == [one.raw for one in found]


def test_a_sum_of_all_reduces_that_is_only_sliced_is_one_reduce_scatter_when_merged():
    found = read(
        REDUCE,
        REDUCE.replace("%r", "%q"),
        *OWN,
        "%c = f32[8,16]{1,0} add(%r, %q)",
        SLICE,
    )
    assert sum(one.merged for one in found) == pytest.approx(3 / 4 * 512)


def test_two_axes_at_once_are_both_named():
    (found,) = read("%x = f32[8,16]{1,0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add")
    assert found.axes == ("data", "fsdp")
    assert np.prod([MESH[axis] for axis in found.axes]) == found.devices


# Loops in loops.

NESTED = """%inner (t: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %t = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[8,16]{1,0} get-tuple-element(%t), index=1
  %r = f32[8,16]{1,0} all-reduce(%v), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%i, %r)
}

%often (s: (s32[], f32[8,16])) -> pred[] {
  %s = (s32[], f32[8,16]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%outer (u: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %u = (s32[], f32[8,16]{1,0}) parameter(0)
  %w = f32[8,16]{1,0} get-tuple-element(%u), index=1
  %q = f32[8,16]{1,0} all-reduce(%w), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %loop.1 = (s32[], f32[8,16]{1,0}) while(%u), condition=%often, body=%inner{INNER}
}

"""


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (5, 3, {("fsdp",): (15, True), ("data",): (3, True)}),
        (5, None, {("fsdp",): (5, False), ("data",): (1, False)}),
        (None, 3, {("fsdp",): (3, False), ("data",): (3, True)}),
    ],
)
def test_a_loop_in_a_loop_runs_as_often_as_both_together(inner, outer, expected):
    def said(trips: int | None) -> str:
        return "" if trips is None else f', backend_config={{"known_trip_count":{{"n":"{trips}"}}}}'

    loop = "%loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%often, body=%outer" + said(outer)
    found = read(*START, loop, head=NESTED.replace("{INNER}", said(inner)))
    assert {one.axes: (one.times, one.known) for one in found} == expected
    assert all(one.raw == pytest.approx(one.times * 2 * (1 - 1 / one.devices) * 512) for one in found)
