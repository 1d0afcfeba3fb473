"""Writes tiny random models by CTranslate2's own classes, and what that package computes with them.

    python tests/interop/make_ctranslate2_references.py

needs the package `ctranslate2` and writes below tests/interop/data/ctranslate2, where test_ctranslate2.py reads.
"""

import json
import shutil
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

HERE = Path(__file__).parent / "data" / "ctranslate2"
WIDTH, HIDDEN, WORDS = 16, 24, 20
TOKENS = ["<pad>", "<s>", "</s>", *(f"w{index}" for index in range(WORDS - 4)), "<unk>"]
ROWS = [[3, 7, 4, 11], [5, 18], [9, 9, 3, 12, 8, 6, 17]]
TARGETS = [[4, 3, 8], [10, 5, 6, 7, 15, 4], [12]]


class Filler:
    """Sets the weights of a specification to random numbers in the shapes that its names ask for."""

    def __init__(self, *, heads: int, kv_heads: int, head_width: int):
        self.draw = np.random.default_rng(8)
        self.queries, self.keys = heads * head_width, kv_heads * head_width

    def normal(self, *shape: int, deviation: float = 1.0) -> np.ndarray:
        """Returns float32 numbers."""
        return self.draw.normal(0, deviation, shape).astype(np.float32)

    def linear(self, spec, rows: int, columns: int, *, bias: bool) -> None:
        """Fills a linear map."""
        spec.weight = self.normal(rows, columns, deviation=1.3 * columns**-0.5)
        if bias:
            spec.bias = self.normal(rows, deviation=0.2)

    def norm(self, spec) -> None:
        """Fills a norm."""
        spec.gamma = 1 + self.normal(WIDTH, deviation=0.1)
        if hasattr(spec, "beta"):
            spec.beta = self.normal(WIDTH, deviation=0.1)

    def stack(self, spec, *, bias: bool) -> None:
        """Fills the layers of an encoder or a decoder, and its norms."""
        for layer in spec.layer:
            attention = layer.self_attention
            self.linear(attention.linear[0], self.queries + 2 * self.keys, WIDTH, bias=bias)
            self.linear(attention.linear[1], WIDTH, self.queries, bias=bias)
            self.norm(attention.layer_norm)
            if hasattr(layer, "attention"):
                self.linear(layer.attention.linear[0], self.queries, WIDTH, bias=bias)
                self.linear(layer.attention.linear[1], 2 * self.keys, WIDTH, bias=bias)
                self.linear(layer.attention.linear[2], WIDTH, self.queries, bias=bias)
                self.norm(layer.attention.layer_norm)
            self.linear(layer.ffn.linear_0, HIDDEN, WIDTH, bias=bias)
            self.linear(layer.ffn.linear_1, WIDTH, HIDDEN, bias=bias)
            if hasattr(layer.ffn, "linear_0_noact"):
                self.linear(layer.ffn.linear_0_noact, HIDDEN, WIDTH, bias=bias)
            self.norm(layer.ffn.layer_norm)
        for name in ("layer_norm", "layernorm_embedding"):
            if hasattr(spec, name):
                self.norm(getattr(spec, name))


def seq2seq(quantization: str | None) -> transformer_spec.TransformerSpec:
    """Returns an encoder-decoder as OpenNMT's are: pre-norm, sines, an output of its own with a bias."""
    spec = transformer_spec.TransformerSpec.from_config((1, 1), 4)
    fill = Filler(heads=4, kv_heads=4, head_width=4)
    fill.stack(spec.encoder, bias=True)
    fill.stack(spec.decoder, bias=True)
    spec.encoder.embeddings[0].weight = fill.normal(WORDS, WIDTH, deviation=0.4)
    spec.decoder.embeddings.weight = fill.normal(WORDS, WIDTH, deviation=0.4)
    fill.linear(spec.decoder.projection, WORDS, WIDTH, bias=True)
    # Hypotheses end, and hold no padding and no beginning, which lmx forbids.
    spec.decoder.projection.bias[:3] = -9, -9, 2
    spec.register_source_vocabulary(TOKENS)
    spec.register_target_vocabulary(TOKENS)
    spec.config.add_source_eos = True
    spec.validate()
    spec.optimize(quantization=quantization)
    return spec


def decoder() -> transformer_spec.TransformerDecoderModelSpec:
    """Returns a decoder of Llama's form, whose neighbouring features turn together, tied."""
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        2, 4, activation=common_spec.Activation.SWISH, ffn_glu=True, rms_norm=True, rotary_dim=0, num_heads_kv=2
    )
    fill = Filler(heads=4, kv_heads=2, head_width=4)
    fill.stack(spec.decoder, bias=False)
    spec.decoder.scale_embeddings = False
    spec.decoder.embeddings.weight = fill.normal(WORDS, WIDTH)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_vocabulary(TOKENS)
    spec.validate()
    spec.optimize()
    return spec


def encoder() -> transformer_spec.TransformerEncoderModelSpec:
    """Returns an encoder of BERT's form with a pooler."""
    stack = transformer_spec.TransformerEncoderSpec(
        1, 2, pre_norm=False, activation=common_spec.Activation.GELU, num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD, layernorm_embedding=True,
    )  # fmt: skip
    spec = transformer_spec.TransformerEncoderModelSpec(stack, pooling_layer=True)
    fill = Filler(heads=2, kv_heads=2, head_width=8)
    fill.stack(spec.encoder, bias=True)
    spec.encoder.scale_embeddings = False
    for table, rows in zip(spec.encoder.embeddings, (WORDS, 2), strict=True):
        table.weight = fill.normal(rows, WIDTH)
    spec.encoder.position_encodings.encodings = fill.normal(12, WIDTH)
    fill.linear(spec.pooler_dense, WIDTH, WIDTH, bias=True)
    spec.register_vocabulary(TOKENS)
    spec.config.layer_norm_epsilon = 1e-12
    spec.validate()
    spec.optimize()
    return spec


def main() -> None:
    """Writes the models, and what the package says of them."""
    shutil.rmtree(HERE, ignore_errors=True)
    specs = {"seq2seq": seq2seq(None), "seq2seq-int8": seq2seq("int8"), "decoder": decoder(), "encoder": encoder()}
    for name, spec in specs.items():
        (HERE / name).mkdir(parents=True)
        spec.save(str(HERE / name))
    said: dict[str, object] = {"rows": ROWS, "targets": TARGETS}
    words = [[TOKENS[index] for index in row] for row in ROWS]
    for name in ("seq2seq", "seq2seq-int8"):
        translator = ctranslate2.Translator(str(HERE / name), compute_type="float32", intra_threads=1)
        scores = translator.score_batch(words, [[TOKENS[index] for index in row] for row in TARGETS])
        found = translator.translate_batch(
            words, beam_size=4, num_hypotheses=3, return_scores=True, min_decoding_length=0, max_decoding_length=30
        )
        said[name] = {
            "logprobs": [row.log_probs for row in scores],
            "hypotheses": [[" ".join(each) for each in row.hypotheses] for row in found],
            "scores": [row.scores for row in found],
        }
    generator = ctranslate2.Generator(str(HERE / "decoder"), compute_type="float32", intra_threads=1)
    said["decoder"] = [np.array(generator.forward_batch([row]))[0].tolist() for row in ROWS]
    model = ctranslate2.Encoder(str(HERE / "encoder"), compute_type="float32", intra_threads=1)
    outputs = [model.forward_batch([row], token_type_ids=[[0] * len(row)]) for row in ROWS]
    said["encoder"] = [np.array(each.last_hidden_state)[0].tolist() for each in outputs]
    said["pooled"] = [np.array(each.pooler_output)[0].tolist() for each in outputs]
    (HERE / "expected.json").write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
