"""Decoding speed of lmx beside Hugging Face's `generate` and CTranslate2: beam search on the CPU, in float32.

    python benchmarks/decoding.py --peer-python PYTHON_WITH_TORCH_TRANSFORMERS_CTRANSLATE2
    python benchmarks/decoding.py --peer-python ... --beams 4 --batches 1 32

All translate the same sources with models of one shape, that of Marian's models as OPUS-MT publishes them, and random
weights, made here: lmx has the config that it reads from a folder of such a model, CTranslate2's is converted from
Hugging Face's. CTranslate2 runs in float32, and once more with weights of int8, which rounds them. Every translation
has exactly `length` tokens: the end token is forbidden before, so that all do equally many steps. What is timed is one
call, from token ids to the ids of the best translations.
Tokens a second are sentences x length / seconds: of each sentence the best translation counts, not all of its beam.

* stock: the process as a user starts it (`lmx translate` keeps freed memory);
* tuned: glibc keeps freed memory and uses huge pages (GLIBC_TUNABLES); on AMD, where there is a C compiler, a preloaded
  library also opens MKL's AVX-512 path to PyTorch.

Each row of the table is a process of its own that waits while another is timed, and all take turns, round after round.
Run it on an idle machine all the same: beside other work, PyTorch's threads wait for each other most of the time.
The script runs in two Pythons, so only the standard library is imported at the top.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.rows import Row, check_peer, cpu_name, serve, tuned_environments  # noqa: E402

Side = Literal["lmx", "huggingface", "ctranslate2", "ctranslate2 int8"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and what it translates; the last word of the vocabulary is padding and start, the first the end."""

    layers: int = 6
    width: int = 512
    feedforward_width: int = 2048
    heads: int = 8
    vocab_size: int = 58_101
    source_length: int = 32
    length: int = 32
    threads: int = 2

    @property
    def pad_id(self) -> int:
        """Padding, and as in Marian the token that decoding starts from."""
        return self.vocab_size - 1


END = 0
TINY = Shape(layers=1, width=16, feedforward_width=24, heads=2, vocab_size=150, source_length=5, length=6)


def make_source(shape: Shape, batch: int) -> Any:
    """Returns random words [B, S] without padding, ended by the end token."""
    import numpy as np

    source = np.random.default_rng(batch).integers(3, shape.pad_id, (batch, shape.source_length), dtype=np.int32)
    source[:, -1] = END
    return source


def marian_config(shape: Shape) -> dict[str, Any]:
    """Returns the fields of a Marian model of the shape, as its config.json has them."""
    sides = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (
            ("layers", shape.layers),
            ("ffn_dim", shape.feedforward_width),
            ("attention_heads", shape.heads),
        )
    }
    return {
        **sides,
        "vocab_size": shape.vocab_size,
        "decoder_vocab_size": shape.vocab_size,
        "d_model": shape.width,
        "activation_function": "swish",
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "pad_token_id": shape.pad_id,
        "decoder_start_token_id": shape.pad_id,
        "eos_token_id": END,
        "forced_eos_token_id": END,
    }


# ---- the sides: each returns (translate, facts); translate(batch, beam) makes the call that is timed -----------------

# () -> best translations, [B][T]
Call = Callable[[], Any]


def lmx_side(shape: Shape) -> tuple[Callable[[int, int], Call], dict[str, Any]]:
    """Builds lmx's model and search, as its translator does."""
    from lmx.process import keep_freed_memory

    keep_freed_memory()  # as `lmx translate` does
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from lmx.decoding import SpecialIds, beam_search, power_penalty
    from lmx.interop.families.marian import config_of
    from lmx.models.seq2seq import Seq2Seq
    from lmx.nn.embedding import count_parameters

    config = config_of(marian_config(shape))
    model = Seq2Seq(config, rngs=nnx.Rngs(0))
    parameters = count_parameters(model)
    definition, state = nnx.split(model)
    params = nnx.to_pure_dict(state)

    def translate(batch: int, beam: int) -> Call:
        source = make_source(shape, batch)

        @jax.jit
        def search(params: Any, source: jax.Array) -> jax.Array:
            step, cache = nnx.merge(definition, params).start_decoding(source, slots=shape.length * beam)

            def step_to_length(tokens: Any, cache: Any, offset: Any, *place: Any) -> tuple[jax.Array, Any]:
                logits, cache = step(tokens, cache, offset, *place)
                is_early = (place[0] < shape.length - 1)[..., None]
                return jnp.where(is_early & (jnp.arange(logits.shape[-1]) == END), -1e9, logits), cache

            return beam_search(
                step_to_length,
                cache,
                active=(source != shape.pad_id).any(-1),
                beam_size=beam,
                max_length=shape.length,
                length_penalty=power_penalty(1.0),
                ids=SpecialIds(pad=shape.pad_id, bos=shape.pad_id, eos=END),
            ).tokens[:, 0]

        return lambda: jax.device_get(search(params, source))

    return translate, {"parameters": parameters, "version": f"jax {jax.__version__}"}


def marian(shape: Shape) -> Any:
    """Returns Hugging Face's model of the shape, with random weights."""
    try:
        import torch
        import transformers
    except ImportError:
        raise ImportError(
            f"{sys.executable} must have torch and transformers: pip install torch transformers ctranslate2, "
            "or name another --peer-python."
        ) from None
    torch.set_num_threads(shape.threads)
    torch.manual_seed(0)
    config = transformers.MarianConfig(**marian_config(shape))
    return transformers.MarianMTModel(config).eval()


def huggingface_side(shape: Shape) -> tuple[Callable[[int, int], Call], dict[str, Any]]:
    """Builds Hugging Face's model; the call is `generate` with its default cache."""
    model = marian(shape)
    import torch
    import transformers

    def translate(batch: int, beam: int) -> Call:
        source = torch.from_numpy(make_source(shape, batch)).long()
        mask = torch.ones_like(source)

        def call() -> Any:
            with torch.inference_mode():
                found = model.generate(
                    source,
                    attention_mask=mask,
                    num_beams=beam,
                    do_sample=False,
                    length_penalty=1.0,
                    min_new_tokens=shape.length - 1,
                    max_new_tokens=shape.length,
                )
            return found[:, 1:].numpy()  # without the start token

        return call

    # Trained ones only: Marian holds its fixed positions as parameters too.
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return translate, {"parameters": parameters, "version": version}


def ctranslate2_side(shape: Shape, *, weights: str = "float32") -> tuple[Callable[[int, int], Call], dict[str, Any]]:
    """Converts Hugging Face's random model and loads it with weights of a type."""
    model = marian(shape)
    try:
        import ctranslate2
        from ctranslate2.converters.transformers import MarianMTLoader
    except ImportError:
        raise ImportError(
            f"{sys.executable} must have ctranslate2: pip install ctranslate2, or use --no-ctranslate2."
        ) from None

    # The converter's command wants a tokenizer; a vocabulary of numbers does.
    words = ["</s>", "<unk>", *map(str, range(2, shape.vocab_size - 1))]
    specification = MarianMTLoader().get_model_spec(model)
    specification.register_source_vocabulary(words)
    specification.register_target_vocabulary(words)
    specification.config.eos_token = specification.config.decoder_start_token = words[0]
    specification.config.unk_token = words[1]
    specification.validate()
    specification.optimize(quantization=None if weights == "float32" else weights)
    with tempfile.TemporaryDirectory() as directory:
        specification.save(directory)
        translator = ctranslate2.Translator(
            directory, device="cpu", compute_type=weights, inter_threads=1, intra_threads=shape.threads
        )
    number = {word: index for index, word in enumerate(words)}

    def translate(batch: int, beam: int) -> Call:
        source = [[words[i] for i in row] for row in make_source(shape, batch)]

        def call() -> Any:
            found = translator.translate_batch(
                source,
                beam_size=beam,
                length_penalty=1.0,
                min_decoding_length=shape.length,
                max_decoding_length=shape.length,
            )
            return [[number[word] for word in result.hypotheses[0]] for result in found]

        return call

    return translate, {"version": f"ctranslate2 {ctranslate2.__version__}"}


# ---- one process a row -----------------------------------------------------------------------------------------------


def prepare(side: Side, shape: Shape) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Gets a row ready: it answers [batch, beam] with the seconds of a call; the first such call compiles."""
    makers: dict[Side, Any] = {
        "lmx": lmx_side,
        "huggingface": huggingface_side,
        "ctranslate2": ctranslate2_side,
        "ctranslate2 int8": partial(ctranslate2_side, weights="int8"),
    }
    translate, facts = makers[side](shape)
    calls: dict[tuple[int, int], Call] = {}

    def answer(question: Any) -> Any:
        batch, beam = question
        if (batch, beam) not in calls:
            calls.clear()
            calls[batch, beam] = translate(batch, beam)
        began = time.perf_counter()
        found = calls[batch, beam]()
        seconds = time.perf_counter() - began
        sizes = {len(row) for row in found}
        if len(found) != batch or sizes != {shape.length} or any(END in row[:-1] for row in found):
            from lmx.errors import InputError

            raise InputError(f"translations must have {shape.length} tokens, got {sizes} of {len(found)} sentences")
        return seconds

    return facts, answer


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compares lmx's beam search with Hugging Face's `generate` and with CTranslate2 on this machine's CPU.

    The models have Marian's base shape: 6+6 layers, width 512, feed-forward 2048, 8 heads, 58,101 words, one table.

    Attributes:
        peer_python: the Python that has torch, transformers and ctranslate2; by default the one that runs this script.
        beams: beam sizes.
        batches: sentences translated at once.
        length: tokens of each source and of each translation, the end token included.
        threads: cores each process may use.
        rounds: turns that each row takes; the medians are printed.
        tuned: also runs lmx and Hugging Face with a tuned allocator (on AMD, Hugging Face with MKL's AVX-512 path too).
        ctranslate2: also runs CTranslate2, in float32 and with weights of int8.
        quick: lmx alone with a toy model, one round, to see that everything runs.
    """

    peer_python: str = sys.executable
    beams: tuple[int, ...] = (4, 5)
    batches: tuple[int, ...] = (1, 8, 64)
    length: int = 32
    threads: int = 2
    rounds: int = 3
    tuned: bool = True
    ctranslate2: bool = True
    quick: bool = False


def main(config: Config) -> None:
    """Prints the machine and the rows, then one table for each beam size."""
    for name in ("length", "threads", "rounds"):
        if getattr(config, name) < 1:
            from lmx.errors import InputError

            raise InputError(f"{name} must be at least 1, got {name}={getattr(config, name)}.")
    if min(config.beams, default=0) < 2 or min(config.batches, default=0) < 1:
        from lmx.errors import InputError

        raise InputError(
            "beams must be at least 2 and batches at least 1, "
            f"got beams={' '.join(map(str, config.beams))} and batches={' '.join(map(str, config.batches))}."
        )
    cores = sorted(os.sched_getaffinity(0))
    if config.threads > len(cores):
        from lmx.errors import InputError

        raise InputError(
            f"threads must be at most the {len(cores)} cores of this machine, got threads={config.threads}."
        )
    if not config.quick:
        check_peer(config.peer_python, "torch", "transformers", *["ctranslate2"] * config.ctranslate2)
    os.sched_setaffinity(0, cores[: config.threads])  # the rows' processes inherit it: XLA has no other knob
    if config.quick:
        config = dataclasses.replace(config, beams=(2,), batches=(1, 3), rounds=1)
        shape = dataclasses.replace(TINY, threads=config.threads)
    else:
        shape = Shape(source_length=config.length, length=config.length, threads=config.threads)
    print(f"machine: {cpu_name()}, {config.threads} of {len(cores)} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(
        f"model:   {shape.layers}+{shape.layers} layers, width {shape.width}, feed-forward {shape.feedforward_width}, "
        f"{shape.heads} heads, {shape.vocab_size:,} words, float32, random weights"
    )
    print(
        f"work:    {shape.source_length} source and exactly {shape.length} target tokens; the best translation counts"
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plans: list[tuple[str, Side, dict[str, str]]] = [("lmx", "lmx", {})]
        if not config.quick:
            plans.append(("HF stock", "huggingface", {}))
            if config.ctranslate2:
                plans.append(("CTranslate2", "ctranslate2", {}))
                plans.append(("CTranslate2 int8", "ctranslate2 int8", {}))
            if config.tuned:
                tuning, peer_tuning, words = tuned_environments(directory)
                print(f"tuned:   {words}")
                plans.append(("lmx tuned", "lmx", tuning))
                plans.append(("HF tuned", "huggingface", peer_tuning))
        rows = []
        threads = {"OMP_NUM_THREADS": str(shape.threads), "MKL_NUM_THREADS": str(shape.threads), "HF_HUB_OFFLINE": "1"}
        for name, side, environment in plans:
            python = sys.executable if side == "lmx" else config.peer_python
            task = [side, dataclasses.asdict(shape)]
            row = Row(name, __file__, task, python=python, environment=threads | environment)
            stack.callback(row.end)
            rows.append(row)
            count = f", {row.facts['parameters']:,} parameters" if "parameters" in row.facts else ""
            print(f"{name + ':':<12} {row.facts['version']}{count}", flush=True)
        for beam in config.beams:
            compare(rows, shape, beam=beam, batches=config.batches, rounds=config.rounds)


def compare(rows: list[Row], shape: Shape, *, beam: int, batches: tuple[int, ...], rounds: int) -> None:
    """Times all rows at one beam size and prints the table: tokens a second, then lmx's ratios to its peers."""
    names = [row.name for row in rows]
    pairs = [("lmx", peer) for peer in ("HF stock", "CTranslate2", "CTranslate2 int8") if peer in names]
    pairs += [(own, "HF tuned") for own in ("lmx", "lmx tuned") if "HF tuned" in names]
    print(f"\nbeam {beam}: target tokens/s and seconds a call, medians of {rounds} interleaved rounds")
    print(f"{'batch':>7}{''.join(f'{name:>20}' for name in names)}")
    for batch in batches:
        first = [row.ask([batch, beam]) for row in rows]
        taken: list[list[float]] = [[] for _ in rows]
        for _ in range(rounds):
            for row, seconds in zip(rows, taken, strict=True):
                seconds.append(row.ask([batch, beam]))
        middle = dict(zip(names, map(statistics.median, taken), strict=True))
        cells = [f"{batch * shape.length / seconds:,.1f} ({seconds:.2f} s)" for seconds in middle.values()]
        print(f"{batch:>7}{''.join(f'{cell:>20}' for cell in cells)}")
        ratios = [f"{own} / {peer} = {middle[peer] / middle[own]:.2f}" for own, peer in pairs]
        ratios.append(f"lmx compiled in {max(0.0, first[0] - middle['lmx']):.1f} s")
        print(f"{'':>9}{', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        side, sizes = json.loads(sys.argv[2])
        serve(lambda: prepare(side, Shape(**sizes)))
    else:
        import tyro

        from lmx.process import one_line_errors

        with one_line_errors():
            main(tyro.cli(Config))
