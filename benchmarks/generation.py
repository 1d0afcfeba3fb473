"""Speed of writing text beside Hugging Face's `generate`: decoders of one shape on the CPU, in float32.

    python benchmarks/generation.py --peer-python PYTHON_WITH_TORCH_AND_TRANSFORMERS
    python benchmarks/generation.py --peer-python ... --shapes gpt2 llama-small --batches 1 32

Both go on from the same random prompts, with random weights made here. Every text has exactly `length` tokens: the end
token is ruled out, so that both do equally many steps. What is timed is one call, from the ids of the prompts to the
ids of the texts; tokens a second are batch x length / seconds. Words are the likeliest ones, or drawn (`--top-k`).

* stock: the process as a user starts it (`lmx generate` keeps freed memory);
* tuned: glibc keeps freed memory and uses huge pages (GLIBC_TUNABLES); on AMD, where there is a C compiler, a preloaded
  library also opens MKL's AVX-512 path to PyTorch.

lmx writes in as many rows as there are prompts (`rows=None`), and once more with the 8 rows that it takes where nothing
is said: then a prompt gets the same bits alone and among others.

Each row of the table is a process of its own that waits while another is timed, and all take turns, round after round.
The ratio is the median of the rounds' ratios. The script runs in two Pythons, so only the standard library is imported
at the top.
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
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.rows import Row, check_peer, cpu_name, serve, tuned_environments  # noqa: E402

Side = Literal["lmx", "huggingface"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, and what it writes; the first words of the vocabulary are padding, beginning and end."""

    form: Literal["gpt2", "llama"] = "gpt2"
    layers: int = 12
    width: int = 768
    feedforward_width: int = 3072
    heads: int = 12
    kv_heads: int = 12
    vocab_size: int = 50_257
    context: int = 1024
    prompt: int = 32
    length: int = 64
    top_k: int | None = None
    threads: int = 2


SHAPES = {
    "gpt2": Shape(),
    "llama-small": Shape(
        form="llama", layers=8, width=512, feedforward_width=1376, heads=8, kv_heads=4, vocab_size=32_000
    ),
    "llama-tiny": Shape(form="llama", layers=6, width=288, feedforward_width=768, heads=6, kv_heads=6, vocab_size=4096),
}
TINY = Shape(form="llama", layers=1, width=16, feedforward_width=24, heads=2, kv_heads=1, vocab_size=150, context=32)
PAD, BOS, END = 0, 1, 2


def make_prompts(shape: Shape, batch: int) -> Any:
    """Returns random words [B, P]."""
    import numpy as np

    return np.random.default_rng(batch).integers(3, shape.vocab_size, (batch, shape.prompt), dtype=np.int32)


# ---- the sides: each returns (write, facts); write(batch) makes the call that is timed -------------------------------

# () -> texts, [B][T]
Call = Callable[[], Any]


def lmx_side(shape: Shape, rows: int | None) -> tuple[Callable[[int], Call], dict[str, Any]]:
    """Builds lmx's model, and writes as its generator does."""
    from lmx.process import keep_freed_memory

    keep_freed_memory()  # as `lmx generate` does
    import jax
    from flax import nnx

    from lmx.generation import Ids
    from lmx.models.decoder import Decoder, DecoderConfig
    from lmx.nn.embedding import count_parameters
    from lmx.sampling import Sampling
    from lmx.sharding.layout import ONE_DEVICE
    from lmx.writer import Asked, Writer

    forms: dict[str, dict[str, Any]] = {
        "llama": {},
        "gpt2": {"norm": "layer", "activation": "gelu", "positions": "learned", "use_bias": True},
    }
    config = DecoderConfig(
        vocab_size=shape.vocab_size,
        width=shape.width,
        feedforward_width=shape.feedforward_width,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        num_layers=shape.layers,
        max_length=shape.context,
        tied_embeddings=True,
        pad_id=PAD,
        **forms[shape.form],
    )
    model = Decoder(config, rngs=nnx.Rngs(0))
    parameters = count_parameters(model)
    ids = Ids(PAD, BOS, END, shape.vocab_size)
    writer = Writer(config, nnx.to_pure_dict(nnx.state(model)), ids=ids, rows=rows, layout=ONE_DEVICE)
    drawn: dict[str, Any] = {"temperature": 0.0} if shape.top_k is None else {"top_k": shape.top_k}
    sampling = Sampling(max_tokens=shape.length, min_tokens=shape.length, **drawn)

    def write(batch: int) -> Call:
        prompts = make_prompts(shape, batch).tolist()
        asked = [Asked(prompt, 0, shape.length) for prompt in prompts]

        def call() -> Any:
            texts = []
            for members in writer.groups([shape.prompt] * batch):
                (written,) = writer.write([asked[index] for index in members], sampling)
                texts += [each.ids for each in written]
            return texts

        return call

    return write, {"parameters": parameters, "version": f"jax {jax.__version__}"}


def huggingface_side(shape: Shape, rows: int | None) -> tuple[Callable[[int], Call], dict[str, Any]]:
    """Builds Hugging Face's model; the call is `generate` with its default cache and attention."""
    try:
        import torch
        import transformers
    except ImportError:
        raise ImportError(
            f"{sys.executable} must have torch and transformers: pip install torch transformers, or name another "
            "--peer-python."
        ) from None
    torch.set_num_threads(shape.threads)
    torch.manual_seed(0)
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None, "tie_word_embeddings": True}
    if shape.form == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.feedforward_width,
            **special,
        )
        model = transformers.GPT2LMHeadModel(config).eval()
    else:
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.width,
            intermediate_size=shape.feedforward_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context,
            **special,
        )
        model = transformers.LlamaForCausalLM(config).eval()
    drawn = {"do_sample": False} if shape.top_k is None else {"do_sample": True, "top_k": shape.top_k}

    def write(batch: int) -> Call:
        prompts = torch.from_numpy(make_prompts(shape, batch)).long()
        mask = torch.ones_like(prompts)

        def call() -> Any:
            with torch.inference_mode():
                found = model.generate(prompts, attention_mask=mask, max_new_tokens=shape.length, **drawn)
            return found[:, shape.prompt :].numpy()

        return call

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return write, {
        "parameters": parameters,
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


# ---- one process a row -----------------------------------------------------------------------------------------------


def prepare(side: Side, shape: Shape, rows: int | None) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Gets a row ready: it answers a batch size with the seconds of a call; the first such call compiles."""
    write, facts = {"lmx": lmx_side, "huggingface": huggingface_side}[side](shape, rows)
    calls: dict[int, Call] = {}

    def answer(batch: Any) -> Any:
        if batch not in calls:
            calls.clear()
            calls[batch] = write(batch)
        began = time.perf_counter()
        found = calls[batch]()
        seconds = time.perf_counter() - began
        sizes = {len(row) for row in found}
        if len(found) != batch or sizes != {shape.length}:
            from lmx.errors import InputError

            raise InputError(f"texts must have {shape.length} tokens, got {sizes} of {len(found)} prompts")
        return seconds

    return facts, answer


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compares how fast lmx and Hugging Face's `generate` write on this machine's CPU.

    Attributes:
        peer_python: the Python that has torch and transformers; by default the one that runs this script.
        shapes: of gpt2 (124M), llama-small and llama-tiny.
        batches: prompts at once.
        prompt: tokens of each prompt.
        length: tokens of each text.
        top_k: draws among so many words; without it, the likeliest are taken.
        threads: cores each process may use.
        rounds: turns that each row takes.
        tuned: also runs both with a tuned allocator (on AMD, Hugging Face with MKL's AVX-512 path too).
        quick: lmx alone with a toy model, one round, to see that everything runs.
    """

    peer_python: str = sys.executable
    shapes: tuple[str, ...] = ("gpt2", "llama-small")
    batches: tuple[int, ...] = (1, 32)
    prompt: int = 32
    length: int = 64
    top_k: int | None = None
    threads: int = 2
    rounds: int = 5
    tuned: bool = True
    quick: bool = False


def main(config: Config) -> None:
    """Prints the machine, and for each shape its rows and a table."""
    from lmx.errors import InputError

    for name in ("prompt", "length", "threads", "rounds"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {name}={getattr(config, name)}.")
    if unknown := set(config.shapes) - set(SHAPES):
        raise InputError(f"shapes must be of {', '.join(SHAPES)}, got {', '.join(sorted(unknown))}.")
    if min(config.batches, default=0) < 1:
        raise InputError(f"batches must be at least 1, got batches={' '.join(map(str, config.batches))}.")
    cores = sorted(os.sched_getaffinity(0))
    if config.threads > len(cores):
        raise InputError(
            f"threads must be at most the {len(cores)} cores of this machine, got threads={config.threads}."
        )
    if not config.quick:
        check_peer(config.peer_python, "torch", "transformers")
    os.sched_setaffinity(0, cores[: config.threads])  # the rows' processes inherit it: XLA has no other knob
    print(f"machine: {cpu_name()}, {config.threads} of {len(cores)} cores, load {os.getloadavg()[0]:.1f} at the start")
    given = {"threads": config.threads, "top_k": config.top_k}
    if config.quick:
        tiny = dataclasses.replace(TINY, prompt=5, length=6, **given)
        compare("tiny", tiny, dataclasses.replace(config, batches=(1, 3), rounds=1))
        return
    for name in config.shapes:
        compare(name, dataclasses.replace(SHAPES[name], prompt=config.prompt, length=config.length, **given), config)


def compare(name: str, shape: Shape, config: Config) -> None:
    """Times all rows of one shape and prints the table: tokens a second, then lmx's ratios to its peers."""
    print(
        f"\n{name}: {shape.layers} layers, width {shape.width}, feed-forward {shape.feedforward_width}, {shape.heads} "
        f"heads, {shape.kv_heads} of keys, {shape.vocab_size:,} words, float32, random weights"
    )
    how = "the likeliest words" if shape.top_k is None else f"drawn among {shape.top_k}"
    print(f"work: prompts of {shape.prompt} tokens, exactly {shape.length} tokens after each, {how}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plans: list[tuple[str, Side, int | None, dict[str, str]]] = [("lmx", "lmx", None, {})]
        plans.append(("lmx 8 rows", "lmx", 8, {}))
        if not config.quick:
            plans.append(("HF stock", "huggingface", None, {}))
            if config.tuned:
                tuning, peer_tuning, words = tuned_environments(directory)
                print(f"tuned: {words}")
                plans.append(("lmx tuned", "lmx", None, tuning))
                plans.append(("HF tuned", "huggingface", None, peer_tuning))
        rows = []
        threads = {"OMP_NUM_THREADS": str(shape.threads), "MKL_NUM_THREADS": str(shape.threads), "HF_HUB_OFFLINE": "1"}
        for title, side, fixed, environment in plans:
            python = sys.executable if side == "lmx" else config.peer_python
            task = [side, dataclasses.asdict(shape), fixed]
            row = Row(title, __file__, task, python=python, environment=threads | environment)
            stack.callback(row.end)
            rows.append(row)
            print(f"{title + ':':<12} {row.facts['version']}, {row.facts['parameters']:,} parameters", flush=True)
        names = [row.name for row in rows]
        pairs = [(own, "HF stock") for own in ("lmx", "lmx 8 rows") if "HF stock" in names]
        pairs += [(own, "HF tuned") for own in ("lmx", "lmx tuned") if "HF tuned" in names]
        print(f"{'batch':>7}{''.join(f'{title:>20}' for title in names)}")
        for batch in config.batches:
            first = [row.ask(batch) for row in rows]
            taken: dict[str, list[float]] = {title: [] for title in names}
            for _ in range(config.rounds):
                for row in rows:
                    taken[row.name].append(row.ask(batch))
            middle = {title: statistics.median(seconds) for title, seconds in taken.items()}
            cells = [f"{batch * shape.length / seconds:,.1f} ({seconds:.2f} s)" for seconds in middle.values()]
            print(f"{batch:>7}{''.join(f'{cell:>20}' for cell in cells)}")
            ratios = []
            for own, peer in pairs:
                turns = [theirs / ours for ours, theirs in zip(taken[own], taken[peer], strict=True)]
                ratios.append(f"{own} / {peer} = {statistics.median(turns):.2f} ({min(turns):.2f} to {max(turns):.2f})")
            ratios.append(f"lmx compiled in {max(0.0, first[0] - middle['lmx']):.1f} s")
            print(f"{'':>9}{', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        side, sizes, fixed = json.loads(sys.argv[2])
        serve(lambda: prepare(side, Shape(**sizes), fixed))
    else:
        import tyro

        from lmx.process import one_line_errors

        with one_line_errors():
            main(tyro.cli(Config))
