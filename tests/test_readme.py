"""What README shows works: its Python runs, its commands, files and links exist."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
import tyro
import yaml

from lmx.cli import COMMANDS
from lmx.config import INLINE
from lmx.data.buckets import rows_of_bucket
from lmx.plan.command import split_arguments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted(DOCS.glob("*.md"))]
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
TASKS = [script for script in SCRIPTS if "\nPRESETS" in script.read_text(encoding="utf-8")]


def blocks(text: str, *languages: str) -> list[str]:
    return [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language in languages]


def commands(text: str) -> list[list[str]]:
    """The shell commands of a page, from its blocks, its indented lines and its inline code, split into words."""
    shown = [*blocks(text, "sh", ""), *re.findall(r"(?:^ {4}.*\n)+", text, re.M)]
    lines = [line.strip().removeprefix("$ ") for block in shown for line in block.replace("\\\n", " ").split("\n")]
    lines = [line for line in lines if re.match(r"(?:make|pip|lmx|python|\.venv/bin/\w+) ", line)]
    lines += re.findall(r"`((?:make|pip|lmx|python|\.venv/bin/\w+) [^`]+)`", text)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def names_defined_in(path: Path) -> set[str]:
    """Fields and string keys of a script: what its command line can name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fields = {
        node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")
    }
    return fields | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def check_make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    assert set(targets) <= make_targets()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for variable in (word.partition("=")[0] for word in words if "=" in word):
        assert re.search(rf"^{variable} \?=", makefile, re.M), f"the Makefile has no {variable}"


def check_python(words: list[str]) -> None:
    script = ROOT / words[0]
    assert script.is_file(), f"{words[0]} does not exist"
    if script.parent.name == "experiments":
        check_experiment(script, words[1:])
        return
    known = names_defined_in(script).union(*map(names_defined_in, (ROOT / "lmx").rglob("*.py")))
    for word in words[1:]:
        flag = re.match(r"--(?:[\w-]+\.)*([\w-]+)", word)
        named = flag is None or {word, flag[1].replace("-", "_")} & {*known, "help"}
        assert named, f"{words[0]} has no {word}"
    if len(words) > 1 and not words[1].startswith("-"):
        assert words[1] in known, f"{words[0]} has no preset {words[1]}"


@cache
def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_the_readme", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check_experiment(script: Path, words: list[str]) -> None:
    """Reads a command as the script does; with PRESET for its preset it is a form, not a command."""
    if words[:1] == ["PRESET"]:
        return
    *_, arguments = split_arguments([re.sub(r"\$\w+", "1", word) for word in words])
    try:
        read = load_script(script).command_line(arguments)
        config = read[1] if script in TASKS else read
        getattr(config, "check", lambda: None)()
    except (SystemExit, ValueError) as stop:
        if getattr(stop, "code", True):
            raise AssertionError(f"{script.name} does not take {shlex.join(words)}") from stop


def check_lmx(words: list[str]) -> None:
    assert words[0] in COMMANDS, f"lmx has no command {words[0]}"
    arguments = list(takewhile(lambda word: word not in ("<", ">", "|"), words[1:]))
    if arguments:  # its name alone is talked of
        try:
            tyro.cli(COMMANDS[words[0]], args=arguments)
        except SystemExit as stop:
            if stop.code:
                raise AssertionError(f"lmx {words[0]} does not take {shlex.join(arguments)}") from stop


CHECKS = {"make": check_make, "python": check_python, "lmx": check_lmx}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path):
    for words in commands(page.read_text(encoding="utf-8")):
        program = Path(words[0]).name
        if program in CHECKS:
            CHECKS[program](words[1:])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("python experiments/classification.py stdlib --reading.text-columns text", "--reading.text-columns"),
        ("python experiments/classification.py trec --folds 5", "--folds 5"),
        ("python experiments/translation.py multi30k --epochs 5", "--epochs 5"),
        ("lmx classify runs/stdlib --column text", "--column text"),
    ],
)
def test_a_command_that_does_not_work_is_found(line: str, wrong: str):
    (words,) = commands(f"```\n{line}\n```\n")
    with pytest.raises(AssertionError, match=wrong):
        CHECKS[words[0]](words[1:])


def test_readme_trains_with_every_script():
    shown = [words[1] for words in commands(README) if words[0].endswith("python")]
    assert set(shown) == {f"experiments/{path.name}" for path in SCRIPTS}


@pytest.mark.parametrize("script", TASKS, ids=lambda path: path.name)
def test_every_preset_is_in_the_table_of_experiments(script: Path):
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    missing = [preset for preset in load_script(script).PRESETS if f"\n| `{preset}` | " not in page]
    assert not missing, f"presets of {script.name} that the page does not explain: {missing}"


def test_the_index_has_every_page():
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split("toctree", 1)[1].split()
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= set(listed)


def test_readme_tells_the_two_commands():
    assert ["make", "demo"] in commands(README)
    assert ["make", "test"] in commands(README)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    rooms = r"(?:lmx|experiments|benchmarks|tests|docs|constraints|tokenizers)"
    named = re.findall(rf"`({rooms}/[\w./-]*)`", text) + re.findall(rf"-c ({rooms}/[\w./-]+)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    links += re.findall(r"<img src=\"([^\"]+)\"", text)
    missing += [link for link in links if not any((page.parent / (link + suffix)).exists() for suffix in ("", ".md"))]
    assert not missing, f"{page.name} names what does not exist: {missing}"


def test_extras_are_those_of_the_package():
    listed = re.search(r"Extras: (.*?)\.\n", README, re.S)
    assert listed is not None
    declared = re.findall(
        r"^(\w+) = \[",
        (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0],
        re.M,
    )
    assert re.findall(r"`(\w+)`", listed[1]) == declared


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_code_runs(number: int, capsys: pytest.CaptureFixture[str]):
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(blocks(README, "python")[number], f"README.md, block {number + 1}", "exec"), names)
    assert "loss 0." in capsys.readouterr().out, "the example learns its task"


def test_readme_fits_one_screen_and_a_half():
    lines = README.split("\n")
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 130


def test_contributing_fits_one_screen():
    lines = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8").split("\n")
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 130


# What starts a run on many machines.


def test_the_slurm_file_is_a_script_whose_options_exist():
    path = DOCS / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = [shlex.split(line) for line in text.split("\n") if line.startswith("srun ")]
    check_python(command[command.index("experiments/translation.py") :])
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
    check_batch(command, devices=int(options["nodes"]) * int(options["gpus-per-node"]))
    # JAX takes a device of the node for each task: as many of one as of the other.
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert text.index("#SBATCH") < text.index("srun")


def check_batch(command: list[str], *, devices: int) -> None:
    """Checks that so many devices get batches that divide over them, and enough tokens each."""
    script = load_script(ROOT / "experiments" / "translation.py")
    _, config = script.command_line(command[command.index("experiments/translation.py") + 1 :])
    batch = config.batch.settled(config.run.mesh, run=ROOT / "absent", devices=devices)
    assert batch.rows_multiple % devices == 0
    for length in (16, config.max_length // 2, config.max_length):
        rows = rows_of_bucket(length, tokens_per_batch=batch.tokens_per_batch, rows_multiple=batch.rows_multiple)
        assert rows * length / devices > 3500


def test_the_jobset_trains_as_the_slurm_file_does():
    (job,) = [part for part in yaml.safe_load_all((DOCS / "jobset.yaml").read_text()) if part["kind"] == "JobSet"]
    (container,) = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    text = (DOCS / "slurm.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = [shlex.split(line) for line in text.split("\n") if line.startswith("srun ")]
    on_shared = [word.replace("data/", "/shared/").replace("runs/", "/shared/runs/") for word in command]
    assert container["command"][1:] == on_shared[on_shared.index("-u") :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_pages_name_exist(page: Path):
    """Those in running text and in tables: `--mesh.data`, `--tokens-per-device 4096`."""
    text = page.read_text(encoding="utf-8")
    known = {flag for script in SCRIPTS for flag in flags_of(load_script(script).Config())}
    known |= {field.name.replace("_", "-") for command in COMMANDS.values() for field in dataclasses.fields(command)}
    named = set(re.findall(r"`--((?:mesh|hosts|tokens|rows|length|save|keep|max-length)[\w.-]*)", text))
    assert named <= known, f"{page.name} names flags that no script and no command has: {named - known}"


def flags_of(config: object, prefix: str = "") -> set[str]:
    """The flags of a config: `tokens-per-batch`, `mesh.data`."""
    found = set()
    hints = get_type_hints(type(config), include_extras=True)
    for each in dataclasses.fields(config):
        name = f"{prefix}{each.name.replace('_', '-')}"
        value = getattr(config, each.name)
        inline = INLINE in getattr(hints[each.name], "__metadata__", ())
        nested = dataclasses.is_dataclass(value)
        found |= flags_of(value, prefix if inline else f"{name}.") if nested else {name}
    return found


def test_the_jobset_names_the_same_number_of_pods_and_what_jax_must_read():
    parts = {part["kind"]: part for part in yaml.safe_load_all((DOCS / "jobset.yaml").read_text(encoding="utf-8"))}
    assert set(parts) == {"ServiceAccount", "Role", "RoleBinding", "JobSet"}
    (job,) = parts["JobSet"]["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == parts["ServiceAccount"]["metadata"]["name"]
    assert parts["RoleBinding"]["roleRef"]["name"] == parts["Role"]["metadata"]["name"]
    readable = {name for rule in parts["Role"]["rules"] for name in rule["resources"]}
    assert readable == {"pods", "services", "jobs"}
    (container,) = pod["containers"]
    check_python(container["command"][container["command"].index("experiments/translation.py") :])
    check_batch(
        container["command"], devices=spec["parallelism"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    )
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # The page tells the address of pod 0: job, number of the job, number of the pod, name of the JobSet.
    names = parts["JobSet"]["metadata"]["name"], job["name"]
    assert f"{names[0]}-{names[1]}-0-0.{names[0]}:" in (DOCS / "many-machines.md").read_text(encoding="utf-8")


def test_the_page_on_many_machines_names_the_flags_that_exist():
    text = (DOCS / "many-machines.md").read_text(encoding="utf-8")
    fields = names_defined_in(ROOT / "lmx" / "hosts.py")
    flags = set(re.findall(r"--hosts\.([\w-]+)", text))
    assert flags == {"coordinator", "num-processes", "process-id", "heartbeat-seconds"}
    assert {flag.replace("-", "_") for flag in flags} <= fields
