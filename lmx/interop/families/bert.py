"""BERT and RoBERTa (Devlin et al. 2019; Liu et al. 2019), alone, with the head for masked words, or as classifiers."""

from collections.abc import Mapping
from typing import Any

from lmx.interop.families.reading import THEIR_ACTIVATIONS, activation, expect, need, plain_attention
from lmx.interop.mapping import Row, Table, row
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig, EncoderConfig
from lmx.models.masked import MaskedConfig

KINDS = ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
ARCHITECTURES = tuple(f"{name}{kind}" for name in ("Bert", "Roberta") for kind in KINDS)


def config_of(theirs: Mapping[str, Any]) -> EncoderConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    expect(theirs, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    kind = theirs["model_type"]
    pad_id = theirs.get("pad_token_id", 0 if kind == "bert" else 1)
    fields: dict[str, Any] = {
        "vocab_size": theirs["vocab_size"],
        "width": theirs["hidden_size"],
        "feedforward_width": theirs["intermediate_size"],
        "num_heads": theirs["num_attention_heads"],
        "num_layers": theirs["num_hidden_layers"],
        "num_types": theirs.get("type_vocab_size", 2),
        "norm_epsilon": theirs.get("layer_norm_eps", 1e-12),
        "activation": activation(theirs, "hidden_act", default="gelu"),
        "dropout_rate": theirs.get("hidden_dropout_prob", 0.1),
        "attention_dropout_rate": theirs.get("attention_probs_dropout_prob", 0.1),
        "max_length": theirs.get("max_position_embeddings", 512) - _first_row(kind, pad_id),
        "pad_id": pad_id,
    }
    architecture = (theirs.get("architectures") or ["Model"])[0]
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        expect(theirs, tie_word_embeddings=True)
        if kind == "roberta":  # its head has the exact gelu, whatever the encoder has
            expect(theirs, hidden_act="gelu")
        return MaskedConfig(**fields)
    if architecture.endswith("ForSequenceClassification"):
        outputs = theirs.get("num_labels") or len(theirs.get("id2label") or {}) or 2
        rate = theirs.get("classifier_dropout")
        rate = fields["dropout_rate"] if rate is None else rate
        return ClassifierConfig(**fields, num_outputs=outputs, pooling="pooler", pooled_dropout_rate=rate)
    return EmbedderConfig(**fields)


def _first_row(kind: str, pad_id: int) -> int:
    """Returns the row of the first position: RoBERTa's, like fairseq's, follow the padding's."""
    return 0 if kind == "bert" else pad_id + 1


def their_config(model: Any) -> dict[str, Any]:
    """Returns their config of ours: RoBERTa's where padding is its id 1 and texts have no types, else BERT's.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    need(
        model,
        "a BERT",
        norm="layer",
        norm_position="post",
        activation=tuple(THEIR_ACTIVATIONS),
        positions="learned",
        scaled_embeddings=False,
        embedding_norm=True,
        use_bias=True,
        **plain_attention(model),
    )
    kind = "roberta" if model.pad_id == 1 and model.num_types <= 1 else "bert"
    head = "Model"
    config: dict[str, Any] = {}
    if isinstance(model, MaskedConfig):
        head = "ForMaskedLM"
        if kind == "roberta":
            need(model, "a RoBERTa", activation="gelu-exact")
    elif isinstance(model, ClassifierConfig):
        need(model, "a BERT", pooling="pooler", output_mean=0.0, output_scale=1.0)
        head = "ForSequenceClassification"
        config["classifier_dropout"] = model.pooled_dropout_rate
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(model.num_outputs)}
        config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    return {
        "architectures": [{"bert": "Bert", "roberta": "Roberta"}[kind] + head],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.feedforward_width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_act": THEIR_ACTIVATIONS[model.activation],
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        "max_position_embeddings": model.max_length + _first_row(kind, model.pad_id),
        "type_vocab_size": max(model.num_types, 1),
        "layer_norm_eps": model.norm_epsilon or 1e-5,
        "pad_token_id": model.pad_id,
        "position_embedding_type": "absolute",
        **config,
    }


def table(model: Any, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    block, layer = "encoder.stack.blocks", f"{kind}.encoder.layer.{{layer}}"
    words = f"{kind}.embeddings"
    rows = [
        row("encoder.embedding.table", f"{words}.word_embeddings.weight", "V D -> V D"),
        row(
            "encoder.positions.table",
            f"{words}.position_embeddings.weight",
            "T D -> T D",
            start=_first_row(kind, model.pad_id),
        ),
        *_norm("encoder.embedding_norm", f"{words}.LayerNorm"),
        *(
            each
            for name in ("query", "key", "value")
            for each in _linear(f"{block}.attention.{name}", f"{layer}.attention.self.{name}", "D H K -> HK D")
        ),
        *_linear(f"{block}.attention.out", f"{layer}.attention.output.dense", "H K D -> D HK"),
        *_norm(f"{block}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        *_linear(f"{block}.feedforward.up", f"{layer}.intermediate.dense", "D F -> F D"),
        *_linear(f"{block}.feedforward.down", f"{layer}.output.dense", "F D -> D F"),
        *_norm(f"{block}.feedforward_norm", f"{layer}.output.LayerNorm"),
    ]
    zeros: dict[str, tuple[int, ...]] = {}
    if model.num_types:
        rows += [row("encoder.types.table", f"{words}.token_type_embeddings.weight", "Y D -> Y D")]
    else:
        zeros[f"{words}.token_type_embeddings.weight"] = (1, model.width)
    rows += _head(model, kind)
    if isinstance(model, EmbedderConfig) and not model.has_pooler:
        zeros |= {f"{kind}.pooler.dense.weight": (model.width,) * 2, f"{kind}.pooler.dense.bias": (model.width,)}
    sizes = {
        "D": model.width,
        "E": model.width,
        "H": model.num_heads,
        "K": model.width_of_head,
        "F": model.feedforward_width,
        "V": model.vocab_size,
        "T": model.max_length,
        "Y": model.num_types,
        "C": getattr(model, "num_outputs", 0),
    }
    ignored = ("*position_ids", "cls.predictions.decoder.*", "lm_head.decoder.*", "cls.seq_relationship.*")
    return Table(rows=tuple(rows), sizes=sizes, ignored=ignored, zeros=zeros)


def _head(model: Any, kind: str) -> list[Row]:
    """Returns the rows of what stands on the encoder."""
    pooler = _linear("pooling.dense", f"{kind}.pooler.dense", "D E -> E D")
    if isinstance(model, ClassifierConfig):
        if kind == "bert":
            return [*pooler, *_linear("output", "classifier", "D C -> C D")]
        return [
            *_linear("pooling.dense", "classifier.dense", "D E -> E D"),
            *_linear("output", "classifier.out_proj", "D C -> C D"),
        ]
    if isinstance(model, EmbedderConfig):
        return pooler
    if kind == "bert":
        transform = "cls.predictions.transform"
        return [
            *pooler,
            *_linear("head.dense", f"{transform}.dense", "D E -> E D"),
            *_norm("head.norm", f"{transform}.LayerNorm"),
            row("head.bias", ("cls.predictions.bias", "cls.predictions.decoder.bias"), "V -> V"),
        ]
    return [
        *pooler,
        *_linear("head.dense", "lm_head.dense", "D E -> E D"),
        *_norm("head.norm", "lm_head.layer_norm"),
        row("head.bias", ("lm_head.bias", "lm_head.decoder.bias"), "V -> V"),
    ]


def _linear(ours: str, theirs: str, layout: str) -> list[Row]:
    """Returns the rows of a linear map and of its bias, whose axes are those that the map makes."""
    before, after = (part.split() for part in layout.split("->"))
    made = [letters for letters in before if letters in after[0]]
    bias = f"{' '.join(made)} -> {after[0]}"
    return [row(f"{ours}.weight", f"{theirs}.weight", layout), row(f"{ours}.bias", f"{theirs}.bias", bias)]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [row(f"{ours}.scale", f"{theirs}.weight", "D -> D"), row(f"{ours}.bias", f"{theirs}.bias", "D -> D")]
