"""The rules: over which mesh axes each axis of the model's alphabet is split. A table, and what follows from it."""

from collections.abc import Mapping

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

Rules = Mapping[str, tuple[str, ...]]

# Model axis -> mesh axes it is split over. An axis that is not here, or maps to (), is replicated. An experiment's
# `Config.rules` may be `DEFAULT_RULES | {...}`.
DEFAULT_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}

# Split where parameters live, whole where they are computed with: weights not in use at the moment stay in pieces.
STORED = ("embed",)


def split_over(axis: str, rules: Rules) -> tuple[str, ...]:
    """Returns the mesh axes that an axis is split over.

    Raises:
        ValueError: the rules name no axes of a mesh for it.
    """
    names = rules.get(axis, ())
    if isinstance(names, str) or not set(names) <= {*MESH_AXES}:
        raise ValueError(f"rules must split {axis} over axes of {MESH_AXES}, as a tuple, got {names!r}.")
    return tuple(names)


def rules_of_tables(rules: Rules) -> Rules:
    """Returns where tokens and tables meet: the axes of a mesh by what they are to both.

    `group` splits tokens, by rows and positions. Those of its axes that also keep tables in pieces are `shard`, if they
    split rows last; the others are `replica`, which `outer_batch` splits rows over. A vocabulary is split over
    `outer_vocab`, and over `words` where the loss is made in pieces.
    """
    batch, length, vocab = (split_over(name, rules) for name in ("batch", "length", "vocab"))
    holding = {*vocab, *split_over("embed", rules)}
    shard = tuple(name for name in batch if name in holding)
    outer_batch = batch[: len(batch) - len(shard)]
    if outer_batch + shard != batch or holding & {*length}:
        shard, outer_batch = (), batch
    outer_vocab = tuple(name for name in vocab if name not in shard)
    return {
        "group": batch + length,
        "shard": shard,
        "replica": outer_batch + length,
        "outer_batch": outer_batch,
        "outer_vocab": outer_vocab,
        "words": outer_vocab + shard,
    }
