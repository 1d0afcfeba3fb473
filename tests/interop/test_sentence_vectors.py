"""What stands beside an encoder in a folder of sentence-transformers is followed, or refused by its name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmx.errors import InputError
from lmx.interop.convert import export, open_model
from lmx.models.embedder import EmbedderConfig
from lmx.saved import read_record, write_json
from tests.interop.models import MODELS, write_run

OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("encoder")
    run = write_run(where / "run", MODELS["bert-embedder"], tokenizer=True)
    export(run, where / "theirs", to="huggingface")
    return where / "theirs"


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    beside = ("modules.json", "sentence_bert_config.json", "1_Pooling")  # tests write their own
    for path in model.iterdir():
        if path.name not in beside:
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def write(folder: Path, *types: str, pooling: dict[str, Any] | None = None, place: str = "1_Pooling") -> Path:
    modules = [{"idx": index, "name": str(index), "type": each} for index, each in enumerate(types)]
    paths = {"Pooling": place, "Normalize": "2_Normalize"}
    modules = [each | {"path": paths.get(str(each["type"]).rpartition(".")[2], "")} for each in modules]
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "config.json").write_text(json.dumps(pooling))
    return folder


def vectors(folder: Path) -> tuple[str, bool]:
    model = open_model(folder).model
    assert isinstance(model, EmbedderConfig)
    return model.vector, model.normalised


def switches(*used: str) -> dict[str, Any]:
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 12, **{f"pooling_mode_{name}": name in used for name in names}}


@pytest.mark.parametrize(
    ("pooling", "vector"),
    [
        ({"embedding_dimension": 12, "pooling_mode": "cls", "include_prompt": True}, "first"),
        ({"embedding_dimension": 12, "pooling_mode": ["cls"]}, "first"),
        ({"embedding_dimension": 12, "pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "first"),  # the present form counts
        (switches("cls_token"), "first"),
        (switches("mean_tokens"), "mean"),
        (switches(), "mean"),
        ({}, "mean"),
    ],
)
def test_vectors_are_those_of_the_pooling(pooling: dict[str, Any], vector: str, folder: Path):
    assert vectors(write(folder, f"{OLD}.Transformer", f"{OLD}.Pooling", pooling=pooling)) == (vector, False)


def test_modules_say_where_they_lie_and_whether_vectors_have_length_1(folder: Path):
    assert vectors(folder) == ("mean", False)
    types = (f"{NEW}.transformer.Transformer", f"{NEW}.pooling.Pooling", f"{NEW}.normalize.Normalize")
    assert vectors(write(folder, *types, pooling={"pooling_mode": "cls"}, place="2_Pooling")) == ("first", True)
    write(folder, f"{OLD}.Normalize", pooling=switches("cls_token"))
    assert vectors(folder) == ("first", True)
    write(folder, *types, place="3_Pooling")
    with pytest.raises(FileNotFoundError, match=r"3_Pooling/config\.json must say how texts are pooled"):
        open_model(folder)


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        (switches("max_tokens"), "must have a mode of pooling_mode_mean_tokens.*got pooling_mode_max_tokens"),
        (
            switches("cls_token", "mean_tokens"),
            "must have a mode of .* got pooling_mode_cls_token and pooling_mode_mean_tokens",
        ),
        ({"pooling_mode": "lasttoken"}, "must have a pooling_mode of mean, cls, got lasttoken"),
        ({"pooling_mode": ["cls", "mean"]}, "must have a pooling_mode of mean, cls, got cls and mean"),
        ({"pooling_mode": []}, "must have a pooling_mode of mean, cls, got none"),
        ({"pooling_mode": 3}, "must have a pooling_mode of mean, cls, got 3"),
    ],
)
def test_vectors_of_another_kind_are_refused(pooling: dict[str, Any], message: str, folder: Path):
    write(folder, f"{OLD}.Transformer", f"{OLD}.Pooling", pooling=pooling)
    with pytest.raises(InputError, match=rf"1_Pooling/config\.json {message}"):
        open_model(folder)


@pytest.mark.parametrize("name", ["Dense", "WeightedLayerPooling", "SpladePooling"])
def test_modules_of_another_kind_are_refused(name: str, folder: Path):
    write(folder, f"{OLD}.Transformer", f"{OLD}.Pooling", f"{OLD}.{name}", pooling=switches("mean_tokens"))
    with pytest.raises(InputError, match=rf"modules\.json must have modules of Transformer.* alone, got {name}, which"):
        open_model(folder)


@pytest.mark.parametrize("content", ["{", "{}", '["x"]', '[{"type": 3}]', '[{"type": "x.Pooling", "path": 3}]'])
def test_damaged_modules_are_named(content: str, folder: Path):
    (folder / "modules.json").write_text(content)
    with pytest.raises(InputError, match=r"modules\.json must (be|have)"):
        open_model(folder)


@pytest.mark.parametrize(("vector", "normalised"), [("first", True), ("mean", False)])
def test_how_vectors_are_made_goes_out_and_comes_in(vector: Any, normalised: bool, tmp_path: Path):
    run = write_run(tmp_path / "run", replace(MODELS["bert-embedder"], vector=vector, normalised=normalised))
    saved = read_record(run / "config.json")
    write_json(run / "config.json", saved | {"config": {"max_length": 9}})
    export(run, tmp_path / "theirs", to="huggingface")
    assert vectors(tmp_path / "theirs") == (vector, normalised)
    assert open_model(tmp_path / "theirs").settings["max_length"] == 9
    modules = json.loads((tmp_path / "theirs" / "modules.json").read_text())
    assert [(each["idx"], each["path"]) for each in modules] == [(0, ""), (1, "1_Pooling"), (2, "2_Normalize")][
        : 2 + normalised
    ]
    assert [each["type"] for each in modules][:2] == [f"{OLD}.Transformer", f"{OLD}.Pooling"]
    said = read_record(tmp_path / "theirs" / "1_Pooling" / "config.json")
    assert (said["word_embedding_dimension"], said["pooling_mode_cls_token"]) == (12, vector == "first")
    write_json(run / "config.json", saved | {"config": {}})
    export(run, tmp_path / "whole", to="huggingface")
    assert read_record(tmp_path / "whole" / "sentence_bert_config.json") == {
        "max_seq_length": 16,
        "do_lower_case": False,
    }


def test_texts_that_they_lower_are_lowered_here_or_refused(folder: Path):
    said = folder / "sentence_bert_config.json"
    said.write_text(json.dumps({"max_seq_length": 9, "do_lower_case": False}))
    assert open_model(folder).settings["max_length"] == 9
    said.write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    with pytest.raises(
        InputError, match=r"sentence_bert_config\.json must leave lowering to the tokenizer, got do_lower"
    ):
        open_model(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    found = open_model(folder).tokenizers["tokenizer"]
    assert found.encode("ÄB") == found.encode("äb")


def test_a_prompt_that_they_put_before_each_text_is_told(folder: Path):
    said = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert open_model(folder).left == ()
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said | {"default_prompt_name": "query"}))
    assert open_model(folder).left == ("default_prompt_name=query: begin each text with 'query: '",)
