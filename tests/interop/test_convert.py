"""Runs become folders of Hugging Face and come back the same; what is wrong in a folder is named."""

import dataclasses
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from lmx.errors import InputError, is_users
from lmx.generator import Generator
from lmx.interop import convert as module
from lmx.interop.convert import convert, export, is_foreign, open_model
from lmx.interop.tensors import INDEX, SINGLE, open_safetensors, write_safetensors
from lmx.models.decoder import DecoderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.models.masked import MaskedConfig
from lmx.parameters import load_params
from tests.interop.models import BERT, GPT2, MODELS, SIZES, write_run
from tests.interop.test_configs import PAIRS

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", MODELS)
def test_a_run_comes_back_from_hugging_faces_form(name: str, tmp_path: Path):
    model = MODELS[name]
    run = write_run(tmp_path / "run", model)
    export(run, tmp_path / "theirs", to="huggingface")
    found = convert(tmp_path / "theirs", tmp_path / "again")
    # Kept by neither: places of dropout that they lack, and the words of a model's tables beyond its vocabulary.
    assert dataclasses.asdict(found.model) == {
        **dataclasses.asdict(model),
        "dropout_rate": found.model.dropout_rate,
        "num_kv_heads": found.model.num_kv_heads,
        "head_width": found.model.head_width,
    }
    assert found.model.width_of_head == model.width_of_head
    assert found.model.width_of_keys == model.width_of_keys
    assert found.file.unused() == []
    before, after = (load_params(folder / "model.safetensors") for folder in (run, tmp_path / "again"))
    for (path, one), (other_path, other) in zip(leaves(before), leaves(after), strict=True):
        assert path == other_path
        np.testing.assert_array_equal(one, other, err_msg=path)


def leaves(params, name: str = "") -> list:
    if not isinstance(params, dict):
        return [(name, params)]
    return [leaf for key in sorted(params) for leaf in leaves(params[key], f"{name}.{key}")]


def test_a_model_without_types_is_written_with_one_of_zeros(tmp_path: Path):
    run = write_run(tmp_path / "run", MaskedConfig(**SIZES, **(BERT | {"num_types": 0})))
    export(run, tmp_path / "theirs", to="huggingface")
    written = open_safetensors(tmp_path / "theirs").read("bert.embeddings.token_type_embeddings.weight")
    np.testing.assert_array_equal(written, np.zeros((1, 12)))


def test_tied_tables_are_written_once_and_padding_is_cut(tmp_path: Path):
    export(write_run(tmp_path / "run", MODELS["gpt2"]), tmp_path / "theirs", to="huggingface")
    shapes = open_safetensors(tmp_path / "theirs").shapes
    assert shapes["transformer.wte.weight"] == (260, 12)
    assert "lm_head.weight" not in shapes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_written_in_the_type_that_is_asked(dtype: str, tmp_path: Path):
    run = write_run(tmp_path / "run", MODELS["llama"])
    export(run, tmp_path / "theirs", to="huggingface", dtype=dtype)
    export(run, tmp_path / "whole", to="huggingface")
    sizes = [(tmp_path / name / SINGLE).stat().st_size for name in ("theirs", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert said["torch_dtype"] == said["dtype"] == dtype
    assert b'"__metadata__": {"format": "pt"}' in (tmp_path / "theirs" / SINGLE).read_bytes()[:99]  # they ask for it
    one, other = (open_safetensors(tmp_path / name).read("model.norm.weight") for name in ("theirs", "whole"))
    np.testing.assert_allclose(one, other, rtol=0.01)


def test_rotary_settings_are_written_for_both_versions(tmp_path: Path):
    export(write_run(tmp_path / "run", MODELS["llama"]), tmp_path / "theirs", to="huggingface")
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert said["rope_theta"] == said["rope_parameters"]["rope_theta"] == 500.0
    assert said["rope_scaling"]["factor"] == said["rope_parameters"]["factor"] == 8.0
    assert said["rope_parameters"]["original_max_position_embeddings"] == 16


def test_a_tokenizer_goes_out_and_comes_in(tmp_path: Path):
    model = dataclasses.replace(MODELS["llama"], pad_id=0)
    export(write_run(tmp_path / "run", model, tokenizer=True), tmp_path / "theirs", to="huggingface")
    assert (tmp_path / "theirs" / "tokenizer.json").is_file()
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert (said["pad_token_id"], said["bos_token_id"], said["eos_token_id"]) == (0, 1, 2)
    tokenizer = open_model(tmp_path / "theirs").tokenizers["tokenizer"]
    assert tokenizer.decode(tokenizer.encode("Weißbier, naïve")) == "Weißbier, naïve"


@pytest.mark.parametrize("first_id", [None, 1])
def test_texts_begin_there_as_they_did_in_training(first_id: int | None, tmp_path: Path):
    model = dataclasses.replace(MODELS["llama"], pad_id=0)
    config = write_run(tmp_path / "run", model, tokenizer=True) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"first_id": first_id}))
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    convert(tmp_path / "theirs", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()).get("first_id") == first_id


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (DecoderConfig(**SIZES, **(GPT2 | {"use_bias": False})), "use_bias"),
        (DecoderConfig(**SIZES, positions="alibi"), "positions"),
        (DecoderConfig(**SIZES, logit_cap=30.0), "logit_cap"),
        (MaskedConfig(**SIZES, **(BERT | {"norm_position": "pre"})), "norm_position"),
        (ClassifierConfig(**SIZES, **BERT, num_outputs=2, pooling="mean"), "pooling"),
    ],
)
def test_a_form_that_they_lack_is_named(model, field: str, tmp_path: Path):
    run = write_run(tmp_path / "run", model)
    with pytest.raises(InputError, match=rf"a model must have {field}=.* to be exported as .*, got {field}="):
        export(run, tmp_path / "theirs", to="huggingface")
    assert os.listdir(tmp_path) == ["run"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(write_run(tmp_path / "run", MODELS["gpt2"], tokenizer=True), tmp_path / "theirs", to="huggingface")
    return tmp_path / "theirs"


def test_an_existing_folder_is_left_alone(folder: Path, tmp_path: Path):
    (tmp_path / "again").mkdir()
    with pytest.raises(FileExistsError, match="again must be new, got one that exists"):
        export(tmp_path / "run", tmp_path / "again", to="huggingface")
    with pytest.raises(FileExistsError, match="again must be new, got one that exists"):
        convert(folder, tmp_path / "again")


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmx.interop.huggingface.write_tokenizers", full)
    with pytest.raises(OSError, match=r"No space left on device: .*again"):
        export(tmp_path / "run", tmp_path / "again", to="huggingface")
    monkeypatch.setattr(module, "write_safetensors", full)
    with pytest.raises(OSError, match=r"No space left on device: .*again"):
        convert(folder, tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["run", "theirs"]


def test_what_is_interrupted_leaves_nothing_and_what_was_left_is_taken_away(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    run = tmp_path / "new" / "run"
    (tmp_path / "new" / "run.partial" / "of a process that was killed").mkdir(parents=True)
    monkeypatch.setattr(module, "write_safetensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, run)
    assert os.listdir(run.parent) == []
    monkeypatch.undo()
    (tmp_path / "deeper" / "run.partial" / "config.json").mkdir(parents=True)
    found = convert(folder, tmp_path / "deeper" / "run")
    assert os.listdir(tmp_path / "deeper") == ["run"]
    saved = json.loads((tmp_path / "deeper" / "run" / "config.json").read_text())
    assert (saved["family"], saved["converted_from"]) == ("decoder", str(folder))
    assert (saved["config"], saved["origin"]["model_type"]) == (found.settings, "gpt2")
    assert json.loads((tmp_path / "deeper" / "run" / "versions.json").read_text())["lmx"]


def test_a_damaged_run_is_one_line_that_names_its_config(tmp_path: Path):
    run = write_run(tmp_path / "run", PAIRS["t5"])
    right = json.loads((run / "config.json").read_text())
    for fields, said in (
        ({"config": [1]}, "in config, got"),
        ({"config": {"search": [1]}}, r"in config\.search, got"),
        ({"config": {"sampling": 3}}, r"in config\.sampling, got"),
        ({"config": {"max_length": "x"}}, r"in config\.max_length, got"),
        ({"config": {"search": {"beam_size": "x"}}}, r"in config\.search\.beam_size, got"),
        ({"origin": [1]}, "in origin, got"),
        ({"end_ids": 3}, "in end_ids, got"),
        ({"end_ids": ["x"]}, "in end_ids, got"),
        ({"first_id": "x"}, "in first_id, got"),
        ({"mask_id": 1.5}, "in mask_id, got"),
        ({"model": 3}, "an object in model, got"),
    ):
        (run / "config.json").write_text(json.dumps(right | fields))
        with pytest.raises(ValueError, match=rf"run/config\.json must have .*{said}") as caught:
            export(run, tmp_path / "theirs", to="huggingface")
        assert is_users(caught.value)
    for family in (["seq2seq"], 3, "vision"):
        (run / "config.json").write_text(json.dumps(right | {"family": family}))
        with pytest.raises(InputError, match=r"run must hold a trained model of decoder, masked, .*, got family="):
            export(run, tmp_path / "theirs", to="huggingface")
    (run / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run must be a run directory, got one without config\.json"):
        export(run, tmp_path / "theirs", to="huggingface")
    assert os.listdir(tmp_path) == ["run"]


def test_a_file_that_is_no_model_says_what_takes_its_place(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"must be a GGUF file or a folder, got a file that begins with .*--pieces"):
        open_model(folder / SINGLE)
    with pytest.raises(
        FileNotFoundError, match=r"must be a folder of Hugging Face's form, got one without config\.json"
    ):
        open_model(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "model.bin").touch()
    foreign = [is_foreign(each) for each in (folder, folder / SINGLE, tmp_path / "package", tmp_path / "run", tmp_path)]
    assert foreign == [True, True, True, False, False]


def test_sides_that_are_padded_with_two_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    export(write_run(tmp_path / "run", PAIRS["marian"]), tmp_path / "theirs", to="huggingface")
    sides = {name: types.SimpleNamespace(vocab_size=30, pad_id=pad) for name, pad in (("source", 7), ("target", 0))}
    monkeypatch.setattr("lmx.interop.huggingface.read_tokenizers", lambda *_: sides)
    monkeypatch.setattr("lmx.interop.huggingface.check_tokenizers", check_untyped)
    with pytest.raises(InputError, match="theirs must have one id that pads both sides, got 0 and 7"):
        open_model(tmp_path / "theirs")


def test_a_folder_without_weights_or_with_programs(folder: Path):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"got pytorch_model\.bin, which can hold programs.*save_pretrained"):
        open_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"must hold weights in model\.safetensors or .*, got only config\.json"
    ):
        open_model(folder)


def test_a_missing_shard_is_named(folder: Path):
    source = open_safetensors(folder)
    names = list(source.shapes)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, of_file in halves.items():
        write_safetensors(folder / file, {n: source.shapes[n] for n in of_file}, [source.read(n) for n in of_file])
    index = {"weight_map": {name: file for file, of_file in halves.items() for name in of_file}}
    (folder / INDEX).write_text(json.dumps(index))
    whole = source.read(names[0])
    (folder / SINGLE).unlink()
    np.testing.assert_array_equal(open_safetensors(folder).read(names[0]), whole)
    open_model(folder)
    (folder / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold all 2 shards of .*, got no b\.safetensors"):
        open_model(folder)


def changed(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_tensors_of_another_shape_are_listed(folder: Path):
    changed(folder, n_positions=17)
    with pytest.raises(InputError, match=r"transformer\.wpe\.weight: \(16, 12\) there, \(17, 12\) in the model"):
        open_model(folder)


def test_an_unknown_kind_lists_the_known_ones(folder: Path):
    changed(folder, model_type="mamba")
    with pytest.raises(InputError, match=r"must name a model of gpt2, llama, .*bert.*, got model_type='mamba'"):
        open_model(folder)
    changed(folder, model_type="gpt2", architectures=["GPT2ForTokenClassification"])
    with pytest.raises(InputError, match=r"gpt2 \(GPT2LMHeadModel.*\), got architectures='GPT2ForTokenClassification'"):
        open_model(folder)


def test_a_field_that_no_model_here_has_is_named(folder: Path):
    changed(folder, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(InputError, match=r"config\.json: scale_attn_by_inverse_layer_idx must be False, got"):
        open_model(folder)


def test_a_tokenizer_larger_than_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch):
    class Larger:
        vocab_size, pad_id = 300, 0

    monkeypatch.setattr("lmx.interop.huggingface.read_tokenizers", lambda *_: {"tokenizer": Larger()})
    monkeypatch.setattr("lmx.interop.huggingface.check_tokenizers", check_untyped)
    with pytest.raises(InputError, match="a row of its table for each id of its tokenizer, got vocab_size=260 and 300"):
        open_model(folder)


def check_untyped(*arguments, **named) -> None:
    from lmx.interop.imported import check_tokenizers

    getattr(check_tokenizers, "__wrapped__", check_tokenizers)(*arguments, **named)


def test_a_damaged_file_is_named(folder: Path):
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"must be a safetensors file, got .* bytes, too few for"):
        open_model(folder)
    (folder / SINGLE).write_bytes(content[:30])
    with pytest.raises(InputError, match="must be a safetensors file, got 30 bytes, too few for its header"):
        open_model(folder)


def test_an_unknown_source(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="a model must be a run directory, a folder or file of another library"):
        open_model(tmp_path / "nothing")


def test_all_that_ends_a_text_goes_in_and_out(tmp_path: Path):
    """Of models for chats: the end of a turn, and the end of a document."""
    sizes = SIZES | {"vocab_size": 600}
    run = write_run(tmp_path / "run", DecoderConfig(**sizes, norm_epsilon=1e-6, num_kv_heads=3, qkv_bias=True))
    theirs = tmp_path / "theirs"
    export(run, theirs, to="huggingface")
    for path in (DATA / "tokenizers" / "qwen2-merges").iterdir():
        if path.name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            shutil.copy(path, theirs)
    ends = tmp_path / "theirs" / "generation_config.json"
    ends.write_text(json.dumps(json.loads(ends.read_text()) | {"eos_token_id": [521, 0, 7, -1]}))
    found = convert(theirs, tmp_path / "again")
    eos = found.tokenizers["tokenizer"].eos_id
    more = [each for each in (521, 0, 7) if each != eos]
    assert len(more) == 2
    assert json.loads((tmp_path / "again" / "config.json").read_text())["end_ids"] == more
    assert Generator.load(tmp_path / "again")._ids.ends == (eos, *more)
    export(tmp_path / "again", tmp_path / "back", to="huggingface")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text())["eos_token_id"] == [eos, *more]
