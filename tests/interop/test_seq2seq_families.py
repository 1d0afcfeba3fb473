"""Marian, T5 and BART against what transformers said of the same tiny weights (make_seq2seq_references.py)."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.constraints import Rules
from lmx.decoding import SpecialIds, beam_search, greedy_search, power_penalty
from lmx.errors import InputError
from lmx.interop.convert import export, open_model
from lmx.interop.huggingface import open_folder
from lmx.interop.imported import Imported, definition_of, shapes_of
from lmx.interop.mapping import Mapped, their_arrays, their_shapes
from lmx.interop.tensors import open_safetensors, write_safetensors
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.parameters import load_params
from lmx.saved import read_record
from lmx.text import ByteTokenizer
from tests.interop import make_seq2seq_references as references
from tests.interop.models import write_run

DATA = Path(__file__).parent / "data" / "seq2seq"
NAMES = tuple(references.PAD_OF)
FORMS = {"marian": "marian", "t5": "t5", "t5-gated": "t5", "mt5": "t5", "bart": "bart", "mbart": "bart"} | {
    "m2m100": "m2m_100"
}


def loaded(imported: Imported) -> Seq2Seq:
    model = Seq2Seq(imported.model, rngs=nnx.Rngs(0))
    for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        param.set_value(jnp.asarray(imported.file.get_tensor(".".join(map(str, path)))))
    return model


def logits_of(model: Seq2Seq, found: Any) -> np.ndarray:
    source = jnp.asarray(found["source"])
    memory, _ = model.encode(source)
    states, _ = model.decode(memory, source, jnp.asarray(found["decoder_input"]))
    return np.asarray(model.logits(states))[..., : model.config.target_vocab_size]


def largest_difference(model: Seq2Seq, found: Any) -> float:
    return float(np.abs(logits_of(model, found) - found["logits"]).max())


def exported(imported: Imported, folder: Path, *, family: Any) -> Path:
    config = family.their_config(imported.model)
    shapes = shapes_of(imported.model)
    table = family.table(imported.model, config["model_type"])
    folder.mkdir()
    write_safetensors(
        folder / "model.safetensors",
        their_shapes(table, shapes),
        their_arrays(table, shapes, Whole(imported.file)),
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


class Whole:
    """Arrays read as a whole, as an open file of ours gives them."""

    def __init__(self, file: Mapped):
        self.get_slice = file.get_tensor


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str):
    imported = open_folder(DATA / name)
    assert imported.family == "seq2seq"
    assert imported.file.unused() == []
    with np.load(DATA / name / "reference.npz") as found:
        assert largest_difference(loaded(imported), found) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_searches_find_what_generate_finds(name: str):
    model = loaded(open_folder(DATA / name))
    with np.load(DATA / name / "reference.npz") as found:
        source, start = jnp.asarray(found["source"]), int(found["decoder_input"][0, 0])
        ids = SpecialIds(pad=references.PAD_OF[name], bos=start, eos=references.EOS_OF[name])
        common = {"active": jnp.ones(len(source), bool), "max_length": references.LONGEST, "ids": ids}
        rules = Rules(min_length=0, early_stopping="true", forced_eos="free")
        step, cache = model.start_decoding(source, slots=references.LONGEST)
        np.testing.assert_array_equal(greedy_search(step, cache, rules=rules, **common), found["greedy"])
        step, cache = model.start_decoding(source, slots=references.LONGEST * references.BEAMS)
        best = beam_search(
            step, cache, beam_size=references.BEAMS, length_penalty=power_penalty(1.0), rules=rules, **common
        )
        np.testing.assert_array_equal(best.tokens[:, 0], found["beam"])


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_in_goes_out_again(name: str, tmp_path: Path):
    from lmx.interop.huggingface import FAMILIES

    imported = open_folder(DATA / name)
    family = FAMILIES[FORMS[name]]
    folder = exported(imported, tmp_path / "out", family=family)
    before, after = open_safetensors(DATA / name), open_safetensors(folder)
    for path in after.shapes:
        skipped = 2 * (family.__name__.endswith("bart") and "embed_positions" in path)  # rows that nothing reads
        there = path if path in before.shapes else "shared.weight"
        np.testing.assert_array_equal(after.read(path)[skipped:], before.read(there)[skipped:], err_msg=path)
    again = open_folder(folder)
    for field in dataclasses.fields(imported.model):
        assert getattr(again.model, field.name) == getattr(imported.model, field.name), field.name


@pytest.mark.parametrize("name", NAMES)
def test_padding_of_the_source_does_not_matter(name: str):
    model, pad = loaded(open_folder(DATA / name)), references.PAD_OF[name]
    with np.load(DATA / name / "reference.npz") as found:
        wide = dict(found) | {"source": np.pad(found["source"], ((0, 0), (0, 5)), constant_values=pad)}
        np.testing.assert_allclose(logits_of(model, wide), logits_of(model, found), atol=2e-5)


def test_fields_say_the_form_of_each_family():
    models = {name: open_folder(DATA / name).model for name in NAMES}
    assert [models[name].activation for name in NAMES[:4]] == ["silu", "relu", "gated-gelu", "gated-gelu"]
    assert [models[name].tied_embeddings for name in NAMES] == ["all", "all", "inputs", "inputs", "all", "all", "all"]
    assert [models[name].scaled_output for name in NAMES] == [False, True, *[False] * 5]
    assert models["t5"].width_of_head * models["t5"].num_heads != models["t5"].width
    assert [models[name].norm_position for name in ("bart", "mbart", "m2m100")] == ["post", "pre", "pre"]
    assert (models["m2m100"].positions, models["m2m100"].first_position) == ("tensor2tensor", 2)
    assert [models[name].pad_id for name in NAMES] == list(references.PAD_OF.values())


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("marian", "decoder_attention_heads", 3, r"decoder_attention_heads must be encoder_attention_heads=2, got"),
        ("marian", "decoder_ffn_dim", 9, r"decoder_ffn_dim must be encoder_ffn_dim=20, got decoder_ffn_dim=9"),
        ("marian", "activation_function", "tanh", r"activation_function must be one of .* got .*'tanh'"),
        ("marian", "normalize_before", True, r"normalize_before must be False, got normalize_before=True"),
        ("marian", "tie_word_embeddings", False, r"tie_word_embeddings must be True, got"),
        ("bart", "static_position_embeddings", True, r"static_position_embeddings must be False, got"),
        ("bart", "normalize_before", True, r"normalize_before must be False, got"),
        ("mbart", "normalize_before", False, r"normalize_before must be True, got"),
        ("m2m100", "encoder_ffn_dim", 9, r"decoder_ffn_dim must be encoder_ffn_dim=9, got decoder_ffn_dim=20"),
        ("t5", "feed_forward_proj", "gated-relu", r"feed_forward_proj must be one of .* got .*'gated-relu'"),
        ("t5", "relative_attention_num_buckets", 16, r"relative_attention_num_buckets must be 32, got"),
        ("t5", "relative_attention_max_distance", 64, r"relative_attention_max_distance must be 128, got"),
    ],
)
def test_a_form_that_no_model_here_has_is_named(name: str, field: str, value: Any, message: str, tmp_path: Path):
    folder = tmp_path / name
    shutil.copytree(DATA / name, folder)
    config = read_record(folder / "config.json") | {field: value}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_folder(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("marian", {"positions": "learned"}, r"positions='sinusoidal' to be exported as a Marian, got"),
        ("marian", {"norm_position": "pre"}, r"norm_position='post' to be exported as a Marian, got"),
        ("marian", {"activation": "gated-silu"}, r"to be exported as a Marian, got activation='gated-silu'"),
        ("bart", {"embedding_norm": False}, r"embedding_norm=True to be exported as a BART or mBART, got"),
        ("m2m100", {"first_position": 1}, r"first_position=2 to be exported as an M2M-100, got first_position=1"),
        ("t5", {"attention_scale": None}, r"attention_scale=1.0 .* to be exported as a T5, got attention_scale=None"),
        ("t5", {"scaled_output": False}, r"tied_embeddings='inputs' to be exported as a T5, got"),
        ("t5", {"window": 4}, r"window=None to be exported as a T5, got window=4"),
    ],
)
def test_a_model_of_another_form_is_not_exported(name: str, changes: dict[str, Any], message: str):
    from lmx.interop.huggingface import FAMILIES

    model = dataclasses.replace(open_folder(DATA / name).model, **changes)
    with pytest.raises(InputError, match=message):
        FAMILIES[FORMS[name]].their_config(model)


def test_marian_with_a_vocabulary_for_each_side_has_two_tables(tmp_path: Path):
    from lmx.interop.families import marian

    model = dataclasses.replace(open_folder(DATA / "marian").model, source_vocab_size=31, tied_embeddings="target")
    config = marian.their_config(model)
    assert marian.config_of(config) == dataclasses.replace(model, embedding_init=model.embedding_init)
    shapes = their_shapes(marian.table(model, "marian"), shapes_of(model))
    assert shapes["model.encoder.embed_tokens.weight"] == (31, model.width)
    assert shapes["model.decoder.embed_tokens.weight"] == (model.target_vocab_size, model.width)
    assert "model.shared.weight" not in shapes


SCRATCH: dict[str, Any] = {
    "source_vocab_size": 260,
    "target_vocab_size": 260,
    "width": 12,
    "feedforward_width": 20,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "max_length": 24,
}
OWN = {
    "marian": Seq2SeqConfig(**SCRATCH),
    "bart": Seq2SeqConfig(**SCRATCH, positions="learned", embedding_norm=True, activation="gelu-exact"),
    "m2m_100": Seq2SeqConfig(**SCRATCH, positions="tensor2tensor", first_position=1, norm_position="pre"),
    "t5": Seq2SeqConfig(
        **SCRATCH,
        positions="t5",
        norm="rms",
        norm_position="pre",
        activation="gated-gelu",
        use_bias=False,
        scaled_embeddings=False,
        attention_scale=1.0,
        tied_embeddings="inputs",
    ),
}


def exported_own(kind: str, folder: Path) -> Any:
    """Writes a model of our own, with ids of bytes, and returns its parameters."""
    run = write_run(folder / "run", OWN[kind], tokenizer=True)
    export(run, folder / "theirs", to="huggingface")
    return load_params(run / "model.safetensors")


@pytest.mark.parametrize("kind", OWN)
def test_a_model_of_our_own_goes_out_as_the_family_that_has_its_form(kind: str, tmp_path: Path):
    params = exported_own(kind, tmp_path)
    said = read_record(tmp_path / "theirs" / "config.json")
    assert (said["model_type"], said["decoder_start_token_id"], said["eos_token_id"]) == (kind, 1, 2)
    again = open_model(tmp_path / "theirs")
    has_bias = kind in ("marian", "bart")
    assert again.model.output_bias == has_bias
    for path in again.file.keys():  # noqa: SIM118
        value: Any = np.zeros(260) if path == "output_bias" else params
        for part in path.split(".") if path != "output_bias" else ():
            value = value[part]
        np.testing.assert_array_equal(again.file.get_tensor(path), value, err_msg=path)
    assert again.tokenizers["tokenizer"].encode("Weißbier") == ByteTokenizer().encode("Weißbier")
    post = read_record(tmp_path / "theirs" / "tokenizer.json")["post_processor"]["single"]
    assert [next(iter(part.values()))["id"] for part in post] == ["A", "</s>"]  # as a run reads a source
    assert read_record(tmp_path / "theirs" / "generation_config.json")["num_beams"] == 5


def test_a_model_of_our_own_that_fits_none_names_the_field(tmp_path: Path):
    run = write_run(tmp_path / "run", dataclasses.replace(OWN["marian"], norm_position="pre"))
    with pytest.raises(InputError, match=r"norm_position='post' to be exported as a Marian, got norm_position='pre'"):
        export(run, tmp_path / "theirs", to="huggingface")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN)
def test_transformers_says_the_same_of_a_model_of_our_own(kind: str, tmp_path: Path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    params = exported_own(kind, tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "theirs").eval()
    source = np.random.default_rng(1).integers(4, 260, (2, 9)).astype(np.int32)
    source[1, 6:] = 0
    given = np.random.default_rng(2).integers(4, 260, (2, 7)).astype(np.int32)
    tokens = torch.tensor(source).long()
    with torch.no_grad():
        told = theirs(tokens, attention_mask=(tokens != 0).long(), decoder_input_ids=torch.tensor(given).long())
    network = definition_of(OWN[kind]).merge(jax.tree.map(jnp.asarray, params))
    difference = np.abs(logits_of(network, {"source": source, "decoder_input": given}) - told.logits.numpy()).max()
    print(f"OWN {transformers.__version__} {kind} {difference:.2e}")
    assert difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("name", NAMES)
def test_live_models_agree_in_both_directions(name: str, size: str, tmp_path: Path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lmx.interop.huggingface import FAMILIES

    theirs = references.build(name, size=size, seed=3)
    length = 150 if size == "large" and "t5" in name else 9  # beyond the last bucket of distances
    source = references.sources(name, words=references.SIZES[size]["words"], length=length)
    found = references.reference(theirs, name, source=source)
    theirs.save_pretrained(tmp_path / "theirs")
    imported = open_folder(tmp_path / "theirs")
    difference = largest_difference(loaded(imported), found)
    folder = exported(imported, tmp_path / "ours", family=FAMILIES[FORMS[name]])
    loader = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokens = torch.from_numpy(source).long()
    with torch.no_grad():
        back = loader(
            input_ids=tokens,
            attention_mask=(tokens != references.PAD_OF[name]).long(),
            decoder_input_ids=torch.from_numpy(found["decoder_input"]).long(),
        ).logits.numpy()
    returned = float(np.abs(back - found["logits"]).max())
    most = np.abs(found["logits"]).max()
    print(f"LIVE {transformers.__version__} {name} {size} in {difference:.2e}, out {returned:.2e}, of {most:.1f}")
    assert difference < 1e-4
    assert returned < 1e-4
