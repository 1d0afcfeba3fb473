"""Bytes that a device holds right after a state was born in pieces, beside the whole state over the devices.

    python benchmarks/birth.py [--layers 6] [--width 512]

Eight virtual CPU devices, fsdp 8, the encoder-decoder with Adam. What does not divide (norms, biases, counters) is on
every device, and is all that the ratio can be above 1.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@dataclass(frozen=True, kw_only=True)
class Config:
    """A model of the base shape, unless told otherwise."""

    layers: int = 6
    width: int = 512
    vocab_size: int = 37_000


def main(config: Config) -> None:
    """Prints the bytes of the fullest device and the ratio."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from flax import nnx

    from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
    from lmx.nn.embedding import count_parameters
    from lmx.optimization import adam, constant
    from lmx.sharding.mesh import MeshConfig, make_mesh
    from lmx.training import born, state_shardings

    model = Seq2SeqConfig(
        source_vocab_size=config.vocab_size,
        target_vocab_size=config.vocab_size,
        width=config.width,
        feedforward_width=4 * config.width,
        num_encoder_layers=config.layers,
        num_decoder_layers=config.layers,
    )

    def build(rngs: nnx.Rngs) -> Seq2Seq:
        return Seq2Seq(model, rngs=rngs)

    network = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    optimizer = adam(constant(1e-3))
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    state = born(build, optimizer, shardings=state_shardings(network, optimizer, mesh=mesh), seed=1)
    jax.block_until_ready(state)
    held = dict.fromkeys(jax.devices(), 0)
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            held[shard.device] += shard.data.nbytes
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    fullest, even = max(held.values()), total / len(held)
    print(f"{count_parameters(network):,} parameters, state of {total:,} bytes, {len(held)} devices, fsdp=8")
    print(f"all live arrays on the fullest device: {fullest:,} bytes; total / devices: {even:,.0f} bytes")
    print(f"ratio = {fullest / even:.4f}")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
