"""Compares two finished runs bit by bit, but for what the clock and the machine decide."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lmx.reasons import quiet_orbax

# Fields of metrics that the clock and the machine decide.
TIMED = ("seconds", "tokens_per_second", "data_wait", "mfu", "mfu_causal")
SAME = ("model.safetensors", "test.hypotheses.txt", "samples.jsonl", "attention.json", "config.json")


def differences(run: Path, reference: Path) -> list[str]:
    """Returns what differs between two finished runs, a line each.

    Compared are names of files, parameters, translations, scores, lines of metrics, and the last checkpoint, the
    optimizer's state in it.
    """
    found = []
    ours, theirs = (files_of(path) for path in (run, reference))
    if ours != theirs:
        found.append(f"has other files: {', '.join(sorted(ours ^ theirs)[:5])}")
    for name in SAME:
        ours, theirs = ((path / name).read_bytes().replace(bytes(path), b"RUN") for path in (run, reference))
        if ours != theirs:
            found.append(f"{name} differs")
    ours, theirs = (json.loads((path / "scores.json").read_text())["rows"] for path in (run, reference))
    if ours != theirs:
        found.append("scores.json has other scores")
    ours, theirs = (untimed(path / "metrics.jsonl") for path in (run, reference))
    if len(ours) != len(theirs):
        found.append(f"metrics.jsonl has {len(ours)} lines and not {len(theirs)}")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        found += [
            f"metrics.jsonl:{number}: {name} is {one.get(name)} and not {other.get(name)}"
            for name in sorted(one.keys() | other.keys())
            if one.get(name) != other.get(name)
        ]
    ours, theirs = (newest_state(path / "checkpoints") for path in (run, reference))
    if ours.keys() != theirs.keys():
        found.append(f"the last checkpoint has other arrays: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    found += [
        f"the last checkpoint: {name} differs"
        for name in ours.keys() & theirs.keys()
        if ours[name].dtype != theirs[name].dtype or ours[name].tobytes() != theirs[name].tobytes()
    ]
    return found


def files_of(run: Path) -> set[str]:
    """Returns the names of what is in a run, checkpoints by their steps: nothing half written may be left over."""
    return {path.relative_to(run).as_posix() for pattern in ("*", "checkpoints/*") for path in run.glob(pattern)}


def untimed(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics without what the clock and the machine decide."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMED and not name.startswith("memory")}
        for line in lines
    ]


def newest_state(checkpoints: Path) -> dict[str, np.ndarray]:
    """Returns name -> array of the newest checkpoint, step and optimizer state among them."""
    import jax
    import orbax.checkpoint as ocp

    quiet_orbax()
    step = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    path = (checkpoints / str(step) / "state").resolve()
    with ocp.PyTreeCheckpointer() as reader:
        # As numpy: the devices of two processes are not here.
        whole = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(path).item_metadata.tree,
            is_leaf=lambda leaf: hasattr(leaf, "shape"),
        )
        tree = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=whole))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
