"""Writes tiny random decoders and encoders of transformers' own classes, and what transformers says with them.

Run by hand, with transformers and torch installed:

    python tests/interop/make_model_references.py [FOLDER [NAME ...]]

The tests read what it wrote into tests/interop/data/models: of every model its logits (reference.npz), of encoders also
what the pipelines "fill-mask" and "text-classification" answer (answers.json), with the tokenizers of data/tokenizers.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
SIZES: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED: dict[str, Any] = {**SIZES, **IDS, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Class, and fields of its config.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 41, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 20, "n_positions": 32, **IDS},
    ),
    "llama": ("LlamaForCausalLM", {**GROUPED, "rope_theta": 500.0, "rope_scaling": LLAMA3}),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 10}),
}
ENCODER: dict[str, Any] = {**SIZES, "hidden_size": 12, "num_attention_heads": 3}
LABELS = {0: "neutral", 1: "contradiction", 2: "entailment"}
OF_BERT: dict[str, Any] = {**ENCODER, "vocab_size": 501}
OF_ROBERTA: dict[str, Any] = {**ENCODER, "vocab_size": 520, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
OF_ROBERTA |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", OF_BERT),
    "roberta": ("RobertaForMaskedLM", OF_ROBERTA),
    "bert-classifier": ("BertForSequenceClassification", {**OF_BERT, "id2label": LABELS}),
    "roberta-classifier": ("RobertaForSequenceClassification", {**OF_ROBERTA, "id2label": LABELS}),
    "bert-several": (
        "BertForSequenceClassification",
        {**OF_BERT, "id2label": LABELS, "problem_type": "multi_label_classification"},
    ),
    "bert-pairs": ("BertForSequenceClassification", {**OF_BERT, "id2label": {0: "LABEL_0"}}),
}
GAPS = ("Where is the {} station?", "{} am going {} to school.", "two words, a {}")
TEXTS = ("Good morning!", "", "The train leaves at eight, doesn't it?")
PAIRS = (("Where is it?", "It is behind the house."), ("One", "Two or three?"))


def build(kind: str, fields: dict[str, Any], *, seed: int) -> Any:
    """Returns a model of transformers with random weights, norms and biases included."""
    import torch
    import transformers

    torch.set_num_threads(1)
    class_ = getattr(transformers, kind)
    model = class_(class_.config_class(**fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, values in model.named_parameters():
            is_norm = values.ndim == 1 and path.endswith("weight")
            deviation = 1.5 if "word_embeddings" in path else 0.5  # so that words matter, and not their places alone
            values.copy_((1.0 if is_norm else 0.0) + deviation * torch.randn(values.shape, generator=generator))
    return model


def tokenizer_of(name: str) -> Path:
    """Returns the folder of an encoder's tokenizer."""
    return DATA / "tokenizers" / name.partition("-")[0]


def logits(model: Any) -> dict[str, np.ndarray]:
    """Returns rows of tokens, of which the second has padding, and the logits: of each place, or of each row."""
    import torch

    vocab_size, pad = model.config.vocab_size, model.config.pad_token_id
    tokens = np.random.default_rng(5).integers(5, vocab_size, (2, 11 if vocab_size < 100 else 7)).astype(np.int32)
    seen = np.ones_like(tokens)
    seen[1, 5:], tokens[1, 5:] = 0, pad
    with torch.no_grad():
        found = model(torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(seen).long()).logits
    return {"tokens": tokens, "logits": found.numpy()}


def answers(folder: Path, name: str) -> dict[str, Any]:
    """Returns what transformers' pipelines answer: probabilities of words, or of labels by their names."""
    import transformers

    if ENCODERS[name][0].endswith("ForMaskedLM"):
        fill = transformers.pipeline("fill-mask", model=str(folder), device="cpu")
        gaps = [gap.format(*[fill.tokenizer.mask_token] * gap.count("{}")) for gap in GAPS]
        found = [fill(text, top_k=5) for text in gaps]
        found = [each if isinstance(each[0], list) else [each] for each in found]
        return {
            "texts": [gap.format(*["[MASK]"] * gap.count("{}")) for gap in GAPS],
            "gaps": [[[(one["token"], one["score"]) for one in gap] for gap in text] for text in found],
        }
    classify = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    given: list[Any] = [*TEXTS, *({"text": first, "text_pair": second} for first, second in PAIRS)]
    found = [classify(each if isinstance(each, dict) else [each]) for each in given]
    found = [each[0] if isinstance(each[0], list) else each for each in found]
    return {
        "texts": list(TEXTS),
        "pairs": list(PAIRS),
        "probabilities": [{one["label"]: one["score"] for one in each} for each in found],
    }


def write(where: Path, name: str) -> None:
    """Writes one model and its reference."""
    kind, fields = {**DECODERS, **ENCODERS}[name]
    model, folder = build(kind, fields, seed=[*DECODERS, *ENCODERS].index(name)), where / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "reference.npz", **logits(model))
    if name in ENCODERS:
        copied = [shutil.copy(path, folder) for path in tokenizer_of(name).iterdir() if path.name not in ours()]
        (folder / "answers.json").write_text(json.dumps(answers(folder, name), indent=1) + "\n", encoding="utf-8")
        for path in copied:
            Path(path).unlink()
    print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


def ours() -> tuple[str, ...]:
    """Returns the files of a tokenizer's folder that are not the tokenizer's."""
    return ("config.json", "expected.json")


if __name__ == "__main__":
    for each in sys.argv[2:] or {**DECODERS, **ENCODERS}:
        write(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "models", each)
