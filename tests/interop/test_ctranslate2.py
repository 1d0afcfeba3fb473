"""CTranslate2's models: what is written comes back, files of each version are read, and what does not fit is told."""

import dataclasses
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.errors import InputError
from lmx.interop.convert import export as export_run
from lmx.interop.ctranslate2.reading import read_ctranslate2
from lmx.interop.ctranslate2.variables import read_variables, write_variables
from lmx.interop.ctranslate2.vocabularies import read_vocabularies
from lmx.interop.ctranslate2.writing import write_ctranslate2
from lmx.interop.imported import definition_of, family_of, shapes_of
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.parameters import open_params, save_params
from lmx.search import Search
from lmx.token_list import TokenListTokenizer, end_of_source
from lmx.translator import Translator
from tests.interop.models import MODELS as RUNS
from tests.interop.models import write_run

WORDS = 11
SIZES = {"width": 12, "feedforward_width": 20, "num_heads": 3}
BOTH = {
    **SIZES,
    "source_vocab_size": WORDS,
    "target_vocab_size": WORDS,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
}
ONE = {**SIZES, "vocab_size": WORDS, "num_layers": 2}
T5 = {
    "norm": "rms",
    "norm_position": "pre",
    "positions": "t5",
    "use_bias": False,
    "attention_scale": 1.0,
    "scaled_embeddings": False,
    "scaled_output": True,
}
MODELS = {
    "vaswani": Seq2SeqConfig(**BOTH, max_length=16),
    "bart": Seq2SeqConfig(
        **BOTH, tied_embeddings="none", positions="learned", max_length=7, embedding_norm=True, output_bias=True
    ),
    "opennmt": Seq2SeqConfig(
        **BOTH, tied_embeddings="target", positions="tensor2tensor", first_position=1, norm_position="pre"
    ),
    "t5": Seq2SeqConfig(**BOTH, **T5, activation="gated-gelu", head_width=8),
    "llama": DecoderConfig(
        **ONE, num_kv_heads=1, max_length=40, tied_embeddings=True, rotary_scaling=(8.0, 1.0, 4.0, 64.0)
    ),
    "qwen": DecoderConfig(**ONE, qkv_bias=True, qk_norm=True, window=5, logit_cap=3.0, norm_epsilon=1e-4),
    "alibi": DecoderConfig(**ONE, positions="alibi", norm="layer", use_bias=True, activation="gelu"),
    "bert": EmbedderConfig(**ONE, num_types=2, max_length=9, has_pooler=True, activation="gelu-exact"),
}


DATA = Path(__file__).parent / "data" / "ctranslate2"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def merged(read):
    """Returns the network of a model that was read, with its parameters."""
    definition = definition_of(read.model)
    take = lambda path, _: jnp.asarray(read.file.get_tensor(".".join(str(entry.key) for entry in path)))  # noqa: E731
    return definition.merge(jax.tree_util.tree_map_with_path(take, definition.shapes))


def filled(rows: list[list[int]]) -> jax.Array:
    return jnp.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], jnp.int32)


# The package's own classes wrote these, see make_ctranslate2_references.py; it computes exponentials to six digits.
@pytest.mark.parametrize("name", ["seq2seq", "seq2seq-int8"])
def test_an_encoder_decoder_of_the_package_has_its_scores_and_hypotheses(name):
    read = read_ctranslate2(DATA / name)
    (tokens,) = read.tokenizers.values()
    assert (end_of_source(tokens), read.model.tied_embeddings, read.model.output_bias) == (2, "none", True)
    rows, targets = EXPECTED["rows"], EXPECTED["targets"]
    params = nnx.to_pure_dict(nnx.state(merged(read), nnx.Param))
    translator = Translator(
        read.model,
        params,
        source_tokenizer=tokens,
        target_tokenizer=tokens,
        search=Search(beam_size=4, min_length=0, max_extra=30),
    )
    lines = [" ".join(tokens.pieces(row)) for row in rows]
    scored = translator.score(lines, [" ".join(tokens.pieces(row)) for row in targets])
    found = translator.translate(lines, n_best=3)
    for row, expected in enumerate(EXPECTED[name]["logprobs"]):
        np.testing.assert_allclose(scored[row].logprobs, expected, atol=2e-5)
        assert [each.text for each in found[row]] == EXPECTED[name]["hypotheses"][row]
        np.testing.assert_allclose([each.score for each in found[row]], EXPECTED[name]["scores"][row], atol=2e-5)


def test_a_decoder_of_the_package_has_its_logits():
    read = read_ctranslate2(DATA / "decoder")
    assert (read.model.positions, read.model.num_kv_heads, read.model.tied_embeddings) == ("rotary", 2, True)
    model, rows = merged(read), EXPECTED["rows"]
    found = jax.jit(lambda tokens: model.logits(model(tokens)[0]))(filled(rows))
    for row, expected in enumerate(EXPECTED["decoder"]):
        np.testing.assert_allclose(found[row, : len(rows[row]), : len(expected[0])], expected, atol=2e-5)


def test_an_encoder_of_the_package_has_its_states_and_pooled_vectors():
    read = read_ctranslate2(DATA / "encoder")
    assert (read.family, read.model.num_types, read.model.norm_epsilon) == ("embedder", 2, 1e-12)
    model, rows = merged(read), EXPECTED["rows"]
    states, _ = jax.jit(model.encoder)(filled(rows))
    pooled = model.pooling(states[:, 0])
    for row, expected in enumerate(EXPECTED["encoder"]):
        np.testing.assert_allclose(states[row, : len(rows[row])], expected, atol=2e-5)
        np.testing.assert_allclose(pooled[row], EXPECTED["pooled"][row], atol=2e-5)


def tokenizer(*, ends_source: bool = True) -> TokenListTokenizer:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{index}" for index in range(WORDS - 4))]
    return TokenListTokenizer(tokens, special={"pad": 0, "bos": 1, "eos": 2, "unk": 3}, ends_source=ends_source)


def export(
    folder: Path, model, *, params=None, tokenizers=None, scale: float = 1.0, **settings
) -> dict[str, np.ndarray]:
    """Writes a model, of random numbers if none are given, and returns its parameters by path."""
    folder.mkdir()
    draw = np.random.default_rng(5)
    shapes = shapes_of(model)
    params = params or {name: draw.normal(0, scale, shape).astype(np.float32) for name, shape in shapes.items()}
    save_params(folder.parent / "model.safetensors", params)
    with open_params(folder.parent / "model.safetensors") as file:
        tokenizers = tokenizers or {"tokenizer": tokenizer()}
        write_ctranslate2(folder, family_of(model), model, file, tokenizers, **settings)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_as_the_same_model(tmp_path, name):
    model = MODELS[name]
    params = export(tmp_path / "there", model)
    read = read_ctranslate2(tmp_path / "there")
    assert read.model == model
    for path, array in params.items():
        found = read.file.get_tensor(path)
        # The padding of a table is cut.
        rows = WORDS if "embedding.table" in path else model.num_types if "types" in path else None
        np.testing.assert_array_equal(found[:rows], array[:rows], err_msg=path)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("int8", 2e-2)])
def test_weights_in_fewer_bits_are_near_what_they_were(tmp_path, dtype, error):
    params = export(tmp_path / "there", MODELS["opennmt"], dtype=dtype)
    read = read_ctranslate2(tmp_path / "there")
    whole = "decoder.blocks.memory_attention.key.weight"
    found = read.file.get_tensor(whole)
    assert 0 < np.abs(found - params[whole]).max() < error * np.abs(params[whole]).max()
    np.testing.assert_array_equal(read.file.get_slice(whole)[1:2, 3:5], found[1:2, 3:5])


def test_special_tokens_and_the_ends_of_sources_come_back(tmp_path):
    export(tmp_path / "there", MODELS["vaswani"])
    assert json.loads((tmp_path / "there" / "config.json").read_text())["add_source_eos"] is True
    found = read_ctranslate2(tmp_path / "there").tokenizers["tokenizer"]
    assert (found.pad_id, found.bos_id, found.eos_id, found.unk_id, end_of_source(found)) == (0, 1, 2, 3, 2)
    assert found.decode(found.encode("w1  w2 other")) == "w1 w2 <unk>"
    assert end_of_source(tokenizer(ends_source=False)) == 0


def old_file(path: Path, *, version: int, spec: bytes = b"TransformerSpec") -> None:
    """Writes one matrix and one number as an early version has them."""
    matrix = np.arange(6, dtype="<f4").reshape(2, 3)
    text = lambda words: struct.pack("<H", len(words) + 1) + words + b"\0"  # noqa: E731
    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 2, 2)
    for name, array in ((b"a/weight", matrix), (b"heads", np.array(7, "<i2"))):
        data += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        if version >= 4:
            data += struct.pack("<BI", {4: 0, 2: 2}[array.itemsize], array.nbytes)
        else:
            data += struct.pack("<BI", array.itemsize, array.size)
        data += array.tobytes()
    if version >= 3:
        data += struct.pack("<I", 1) + text(b"b/weight") + text(b"a/weight")
    path.write_bytes(data)


@pytest.mark.parametrize("version", range(2, 7))
def test_files_of_all_versions_are_read(tmp_path, version):
    old_file(tmp_path / "model.bin", version=version)
    read = read_variables(tmp_path / "model.bin")
    np.testing.assert_array_equal(read.read("a/weight", (slice(1, 2), slice(1, 3))), [[4, 5]])
    assert (read.version, read.spec, read.revision, read.setting("heads")) == (version, "TransformerSpec", 2, 7)
    assert read.aliases == ({"b/weight": "a/weight"} if version >= 3 else {})


def test_a_file_that_is_cut_anywhere_or_longer_is_an_error(tmp_path):
    path = tmp_path / "model.bin"
    old_file(path, version=6)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"model\.bin must be a whole model\.bin, got \d+ bytes, which end within"):
            read_variables(path)
    path.write_bytes(whole + b"\0\0")
    with pytest.raises(InputError, match=r"must end after its variables, got 2 bytes more\.$"):
        read_variables(path)


def test_unknown_versions_and_specifications_are_errors(tmp_path):
    old_file(tmp_path / "model.bin", version=6, spec=b"WhisperSpec")
    with pytest.raises(InputError, match=r"must be a model of TransformerSpec, .*, got WhisperSpec"):
        read_ctranslate2(tmp_path)
    old_file(tmp_path / "model.bin", version=7)
    with pytest.raises(InputError, match=r"must be a CTranslate2 model of binary version 2 to 6, got 7"):
        read_ctranslate2(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds the weights of a CTranslate2 model"):
        read_ctranslate2(tmp_path / "nowhere")


def test_integers_without_scales_are_not_weights(tmp_path):
    path = tmp_path / "model.bin"
    variables = [("a/weight", np.ones((2, 2), np.int8))]
    write_variables(path, spec="TransformerSpec", revision=7, number=1, variables=variables, aliases={})
    with pytest.raises(InputError, match=r"got a/weight of int8\. Convert the model again without AWQ\.$"):
        read_variables(path).read("a/weight")


def test_vocabularies_that_are_missing_or_do_not_fit_are_errors(tmp_path):
    folder = tmp_path / "there"
    export(folder, MODELS["vaswani"])
    path = folder / "shared_vocabulary.json"
    tokens = json.loads(path.read_text())
    path.write_text(json.dumps(tokens[:-1]))
    with pytest.raises(InputError, match=r"must have the 11 tokens of the model's table, got 10, the unknown one"):
        read_ctranslate2(folder)
    path.write_text(json.dumps([token for token in tokens if token != "</s>"] + ["more"]))
    with pytest.raises(InputError, match=r"must have '</s>', which ends a text, got no such token"):
        read_ctranslate2(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"must have a vocabulary, source_vocabulary\.json or"):
        read_ctranslate2(folder)


def test_what_ctranslate2_cannot_compute_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"a model for CTranslate2 must do without this score_cap, got score_cap=5\.0"):
        export(tmp_path / "there", DecoderConfig(**ONE, score_cap=5.0))
    assert not list((tmp_path / "there").iterdir())


def test_what_begins_a_source_must_be_in_its_vocabulary(tmp_path: Path):
    tokens = ["<unk>", "<s>", "</s>", "a"]
    (tmp_path / "shared_vocabulary.json").write_text(json.dumps(tokens))
    sizes, asked = {"source": 4, "target": 4}, {"add_source_bos": True}
    assert read_vocabularies(tmp_path, sizes, config=asked)["source"].before == (1,)
    with pytest.raises(
        InputError, match=r"shared_vocabulary\.json must have 'eng', which begins a source, got no such"
    ):
        read_vocabularies(tmp_path, sizes, config=asked | {"bos_token": "eng"})


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("bert-classifier", ["output.bias, output.weight: CTranslate2 has the encoder alone"]),
        ("bert-embedder", []),
        ("gpt2", []),
    ],
)
def test_what_has_no_place_is_told(name: str, left: list[str], tmp_path: Path):
    model = dataclasses.replace(RUNS[name], pad_id=0)
    assert export_run(write_run(tmp_path / "run", model, tokenizer=True), tmp_path / "there", to="ctranslate2") == left
