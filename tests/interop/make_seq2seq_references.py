"""Writes tiny random encoder-decoders of transformers' own classes, their logits, and what they generate.

Run by hand, with transformers and torch installed:

    python tests/interop/make_seq2seq_references.py [FOLDER [NAME ...]]

The tests read what it wrote into tests/interop/data/seq2seq; the live tests call `build` and `reference`.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

PAD_OF = {"marian": 36, "t5": 0, "t5-gated": 0, "mt5": 0, "bart": 1, "mbart": 1, "m2m100": 1}
EOS_OF = {"marian": 0, "t5": 1, "t5-gated": 1, "mt5": 1, "bart": 2, "mbart": 2, "m2m100": 2}
BEAMS = 3
LONGEST = 24
SIZES = {
    "small": {"width": 12, "heads": 2, "head_width": 5, "hidden": 20, "encoder": 2, "decoder": 1, "words": 37},
    "large": {"width": 64, "heads": 4, "head_width": 24, "hidden": 144, "encoder": 4, "decoder": 3, "words": 301},
}


def build(name: str, *, size: str = "small", seed: int = 0) -> Any:
    """Returns a model of transformers with random weights, norms and biases included."""
    import torch
    import transformers

    torch.set_num_threads(1)
    sizes = SIZES[size]
    pad, eos = PAD_OF[name], EOS_OF[name]
    ids = {
        "pad_token_id": pad,
        "eos_token_id": eos,
        "decoder_start_token_id": eos if name in ("bart", "m2m100") else pad,
    }
    if "t5" in name:
        config = {"T5": transformers.T5Config, "MT": transformers.MT5Config}[name[:2].upper()](
            vocab_size=sizes["words"],
            d_model=sizes["width"],
            d_kv=sizes["head_width"],
            d_ff=sizes["hidden"],
            num_layers=sizes["encoder"],
            num_decoder_layers=sizes["decoder"],
            num_heads=sizes["heads"],
            feed_forward_proj="relu" if name == "t5" else "gated-gelu",
            tie_word_embeddings=name == "t5",
            **ids,
        )
        kind = transformers.MT5ForConditionalGeneration if name == "mt5" else transformers.T5ForConditionalGeneration
    else:
        kinds = {"marian": "MarianMTModel", "m2m100": "M2M100ForConditionalGeneration"}
        kind = getattr(
            transformers, kinds.get(name, f"{'MBart' if name == 'mbart' else 'Bart'}ForConditionalGeneration")
        )
        config = kind.config_class(
            vocab_size=sizes["words"],
            d_model=sizes["width"],
            encoder_layers=sizes["encoder"],
            decoder_layers=sizes["decoder"],
            encoder_attention_heads=sizes["heads"],
            decoder_attention_heads=sizes["heads"],
            encoder_ffn_dim=sizes["hidden"],
            decoder_ffn_dim=sizes["hidden"],
            max_position_embeddings=40,
            scale_embedding=name != "bart",
            activation_function={"marian": "swish", "m2m100": "relu"}.get(name, "gelu"),
            bos_token_id=eos if name == "marian" else 0,
            **({} if name == "m2m100" else {"forced_eos_token_id": eos}),
            **ids,
        )
    torch.manual_seed(seed)
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if "t5" in name and name != "t5":  # transformers 5 makes them one, unless a file has both
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        for path, values in [
            *model.named_parameters(),
            ("final_logits_bias", getattr(model, "final_logits_bias", None)),
        ]:
            if values is None or (name == "marian" and "embed_positions" in path):
                continue
            noise = torch.randn(values.shape, generator=generator)
            is_norm = "norm" in path and path.endswith("weight")
            # Of a matrix, so that outputs are as large as inputs; tables so that words differ.
            deviation = 0.3 if values.ndim == 1 or path == "final_logits_bias" else values.shape[-1] ** -0.5
            if "shared" in path or "embed" in path or "lm_head" in path:
                deviation = 1.0 if "t5" in name else 0.5
            if path.endswith(".q.weight"):  # as T5 draws them: its scores have no scale
                deviation = (sizes["width"] * sizes["head_width"]) ** -0.5
            values.copy_((1.0 if is_norm else 0.0) + deviation * noise)
            if path == "final_logits_bias":  # so that translations end
                values[0, eos] += 1.5
            elif "t5" in name and ("shared" in path or "lm_head" in path):
                values[eos] *= 2.5
        if name == "m2m100":  # no bias of words: the states lean towards the end
            model.model.decoder.layer_norm.bias += 0.5 * model.model.shared.weight[eos]
    return model


def sources(name: str, *, words: int, rows: int = 4, length: int = 9) -> np.ndarray:
    """Returns sources of several lengths that end with the end token, and padding behind them."""
    random = np.random.default_rng(7)
    pad, eos = PAD_OF[name], EOS_OF[name]
    source = random.integers(3, min(words, 36), size=(rows, length))
    for index in range(rows):
        end = length - 1 - 2 * index if index < length // 2 else 1
        source[index, end], source[index, end + 1 :] = eos, pad
    return source.astype(np.int32)


def reference(model: Any, name: str, *, source: np.ndarray, length: int = 7) -> dict[str, np.ndarray]:
    """Returns sources, inputs of the decoder, logits, and what greedy search and beam search find."""
    import torch

    random = np.random.default_rng(8)
    pad = PAD_OF[name]
    given = random.integers(3, 36, size=(len(source), length)).astype(np.int32)
    given[:, 0] = model.config.decoder_start_token_id
    tokens = torch.from_numpy(source).long()
    mask = (tokens != pad).long()
    forced = getattr(model.generation_config, "forced_eos_token_id", None)
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=torch.from_numpy(given).long()).logits
        settings = {
            "attention_mask": mask,
            "max_length": LONGEST + 1,
            "do_sample": False,
            "suppress_tokens": sorted({pad, model.config.decoder_start_token_id} - {EOS_OF[name]}),
            "forced_eos_token_id": forced if forced is not None else EOS_OF[name],
            "min_length": 0,
        }
        greedy = model.generate(tokens, num_beams=1, **settings)
        beam = model.generate(tokens, num_beams=BEAMS, early_stopping=True, length_penalty=1.0, **settings)
    found = {"source": source, "decoder_input": given, "logits": logits.numpy()}
    for kind, words in (("greedy", greedy), ("beam", beam)):
        words = words.numpy()[:, 1:].astype(np.int32)
        # transformers' beam search fills up with the end token where the id of padding is 0.
        ended = np.cumsum(words == EOS_OF[name], axis=1) - (words == EOS_OF[name]) > 0
        words = np.where(ended, pad, words)
        found[kind] = np.pad(words, ((0, 0), (0, LONGEST - words.shape[1])), constant_values=pad)
    return found


def write(folder: Path, name: str) -> None:
    """Writes one small model and its reference: the first seed whose translations end at several lengths."""
    for seed in range(40):
        model = build(name, seed=seed)
        source = sources(name, words=SIZES["small"]["words"])
        found = reference(model, name, source=source)
        lengths = {kind: set((found[kind] != PAD_OF[name]).sum(1)) for kind in ("greedy", "beam")}
        judge = any if name == "m2m100" else all  # whose words repeat themselves
        if judge(len(each) >= 2 and each - {1, LONGEST} for each in lengths.values()):
            break
    model.save_pretrained(folder / name)
    np.savez(folder / name / "reference.npz", **found)
    print(name, seed, {kind: sorted(map(int, each)) for kind, each in lengths.items()})


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "seq2seq"
    for each in sys.argv[2:] or PAD_OF:
        write(where, each)
