"""A plan as tables of text."""

from collections.abc import Sequence

from lmx.plan.figures import EFFICIENCY, Communication, Plan

NEXT_TO_NOTHING = 1e-3  # of the counted bytes: rows below are sums of scalars and are printed as one line


def render(plan: Plan) -> str:
    """Returns the plan as tables of text, with what each number stands on."""
    blocks = [_heading(plan), _memory_table(plan), communication_table(plan.communication), _time_table(plan)]
    return "\n\n".join(blocks) + "\n"


def _heading(plan: Plan) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in plan.mesh if size > 1) or "one device"
    return (
        f"Plan for {plan.devices} x {plan.device.name} ({sizes}), {plan.dtype} compute, float32 parameters\n"
        f"{plan.parameters:,} parameters, without the padding of vocabulary tables"
    )


def _memory_table(plan: Plan) -> str:
    memory, capacity, whole = plan.memory, plan.device.allotted, plan.device.memory
    columns = ("parameters", "optimizer", "average", "gradients", "total")
    head = ("memory of a device", "count", *columns)
    rows = [
        (module.name, f"{module.count:,}" if module.count else "", *(_bytes(getattr(module, name)) for name in columns))
        for module in memory.modules
    ]
    sums = [sum(getattr(module, name) for module in memory.modules) for name in columns]
    rows.append(
        ("state and gradients (exact)", f"{sum(module.count for module in memory.modules):,}", *map(_bytes, sums))
    )
    table = _table(head, rows, rule_before=len(rows) - 1)
    activations = [(scope, _bytes(size)) for scope, size in memory.activations[:12]]
    others = memory.activations[12:]
    if others:
        activations.append((f"{len(others)} more", _bytes(sum(size for _, size in others))))
    activations.append(("activations", _bytes(memory.saved)))
    shape = "x".join(map(str, plan.estimates[0].shape[1:]))
    saved = _table((f"saved for the backward pass, by scope, of {shape}", ""), activations, len(activations) - 1)
    verdict = (
        f"{_bytes(memory.total)} of {_bytes(capacity)} ({memory.total / capacity:.1%})"
        + (": " if capacity == whole else f", which XLA takes of {_bytes(whole)} (XLA_CLIENT_MEM_FRACTION): ")
        + ("fits" if plan.fits else "does not fit")
        + f", where a tenth is left free. Workspaces of {plan.device.name}'s kernels are not known here and not in it."
    )
    largest = "; ".join(f"{_bytes(one.size)} {_plain(one.shape)}" for one in memory.fullest.held[:3])
    lines = [
        f"at the fullest moment of a step: {_bytes(memory.fullest.size)} beside the state (largest: {largest}),",
        f"{_bytes(memory.working)} more than gradients and activations together",
        verdict,
    ]
    if memory.squares > 0.05 * memory.saved:
        rest = _bytes(memory.total - memory.squares)
        lines.append(
            f"Of the activations {_bytes(memory.squares)} are attention's weights and masks, which XLA's kernel saves "
            f"and a fused one does not: {rest} without."
        )
    for change in plan.changes:
        found = f"cannot be: {change.why_not}"
        if change.total is not None:
            found = f"{_bytes(change.total)}, {'fits' if change.fits else 'does not fit'}"
        lines.append(f"  with {change.text}: {found}")
    if plan.changes and not plan.changes[-1].fits:
        lines.append("  none of these is enough alone: use more devices, or several of them together")
    return f"{table}\n\n{saved}\n\n" + "\n".join(lines)


def communication_table(communication: Communication) -> str:
    """Returns what a step sends, over which axes, beside the least possible."""
    if not communication.traffic:
        return "communication: none, there is one device"
    limit = NEXT_TO_NOTHING * communication.counted
    head = ("sent by a device in a step", "over", "times", "raw", "counted", "merged", "least", "counted/least")
    rows: list[tuple[str, ...]] = []
    over = sorted({row.axes for row in communication.traffic} | {axes for _, axes, _ in communication.least})
    small = [row for row in communication.traffic if row.counted < limit]
    for axes in over:
        names = " x ".join(axes)
        matched = [row for row in communication.traffic if row.axes == axes and row not in small]
        for row in matched:
            mark = "*" if "sliced" in row.kind else ""
            figures = (_bytes(row.raw), _bytes(row.counted) + mark, _bytes(row.merged))
            rows.append((row.kind, names, f"{row.times:,}", *figures, "", ""))
        least = [(kind, size) for kind, where, size in communication.least if where == axes]
        rows += [(f"  needed: {kind}", names, "", "", "", "", _bytes(size), "") for kind, size in least]
        if least:
            counted, possible = sum(row.counted for row in matched), sum(size for _, size in least)
            ratio = f"{counted / possible:.2f}" if possible > 0.05 * communication.least_total else ""
            rows.append(("", names, "", "", _bytes(counted), "", _bytes(possible), ratio))
    if small:
        sums = [_bytes(sum(getattr(row, name) for row in small)) for name in ("raw", "counted", "merged")]
        rows.append(("small ones together", "", f"{sum(row.times for row in small):,}", *sums, "", ""))
    ratio = f"{communication.counted / communication.least_total:.2f}" if communication.least_total else ""
    sums = [getattr(communication, name) for name in ("raw", "counted", "merged", "least_total")]
    rows.append(("all", "", "", *map(_bytes, sums), ratio))
    notes = [
        "counted: * an all-reduce of which only slices are used counts as a reduce-scatter.",
        "merged: all-reduces that are only added up count as one, too, as accelerators' compilers make them.",
    ]
    if communication.widened > limit:
        notes.append(
            f"Gradients are summed over devices in float32: {_bytes(communication.widened)} of the counted bytes, "
            'which gradient_sum="compute" saves.'
        )
    if not communication.known:
        notes.append("Some loops have an unknown length and count once.")
    return _table(head, rows, rule_before=len(rows) - 1) + "\n" + "\n".join(notes)


def _time_table(plan: Plan) -> str:
    device, peak = plan.device, plan.device.peak(plan.dtype)
    lines = []
    for estimate in plan.estimates:
        shape = "x".join(map(str, estimate.shape))
        lines.append(f"batch {shape}: {estimate.tokens:,} padded tokens, {estimate.flops.total:.4g} FLOPs a step")
        if estimate.flops.recomputed:
            again = estimate.flops.recomputed / estimate.flops.total
            lines.append(f"  {again:.1%} of them are done again for the backward pass; MFU leaves these out")
        lines += [f"  {note}" for note in estimate.flops.unknown]
        seconds = estimate.seconds
        if seconds is None or peak is None:
            continue
        rates = [estimate.tokens / time for time in (seconds.worst, seconds.best)]
        useful = (estimate.flops.total - estimate.flops.recomputed) / plan.devices
        shares = [useful / time / peak for time in (seconds.worst, seconds.best)]
        lines += [
            f"  {_time(seconds.best)} to {_time(seconds.worst)} a step (computing {_time(seconds.computing)}, "
            f"sending {_time(seconds.sending)}, updating {_time(seconds.updating)})",
            f"  {rates[0]:,.0f} to {rates[1]:,.0f} tokens/s, MFU {shares[0]:.1%} to {shares[1]:.1%}",
        ]
    link = device.interconnect or device.between
    if peak is None or device.memory_bandwidth is None or link is None:
        lines.append(f"no estimate of time: there is no data sheet of {device.name} for {plan.dtype}")
        return "\n".join(lines)
    between = ""
    if device.interconnect and device.between:
        between = f", {_bytes(device.between)}/s beyond {device.group} devices"
    lines += [
        f"not calibrated: {device.name} was not measured. Assumed: products of matrices at {EFFICIENCY:.0%} of "
        f"{peak / 1e12:,.0f} TFLOP/s;",
        f"a device sends {_bytes(link)}/s{between}; the state is read and written once at "
        f"{_bytes(device.memory_bandwidth)}/s.",
        "The shorter time has communication and computing at the same time, the longer one after the other. "
        "Latencies are not in it.",
    ]
    return "\n".join(lines)


def _bytes(size: float | int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B" if size else "0"


def _plain(shape: str) -> str:
    """Returns a shape without its layout; of what a loop carries, that it is."""
    return "in a loop" if shape.startswith("(") else shape.partition("{")[0]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], rule_before: int) -> str:
    """Returns columns of text, the first to the left and the others to the right, with a rule before one row."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [line(row) for row in rows]
    return "\n".join([line(head), rule, *body[:rule_before], rule, *body[rule_before:]])
