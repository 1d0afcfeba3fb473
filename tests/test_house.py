"""What holds for the project as a whole: names are documented, options are read, nothing depends on one machine."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON_FILES = [path for room in ("lmx", "experiments", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in PYTHON_FILES}
BUILT = {"site", "runs", "dist", "__pycache__"}


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def project_files() -> list[Path]:
    """All files of the project but for what is built, hidden (save .ci) or not text."""

    def is_ours(path: Path) -> bool:
        folders = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in (".ci", ".gitignore") for part in folders)
        return path.is_file() and not hidden and not BUILT & set(folders) and folders[:2] != ("docs", "api")

    return [path for path in sorted(ROOT.rglob("*")) if is_ours(path) and b"\0" not in path.read_bytes()[:1024]]


# Documentation


def undocumented(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yields the public functions, classes and methods without a docstring."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if ast.get_docstring(node) is None and not any("overload" in text for text in decorators):
                yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body, f"{prefix}{node.name}.")


def test_every_public_name_has_a_docstring():
    missing = []
    for path, tree in TREES.items():
        if path.is_relative_to(ROOT / "lmx"):
            missing += [place(path, node) + " " + name for name, node in undocumented(tree.body)]
    assert not missing, "without a docstring:\n" + "\n".join(missing)


def test_every_module_says_where_its_border_is():
    missing = [place(path) for path, tree in TREES.items() if not ast.get_docstring(tree)]
    assert not missing, "without a module docstring:\n" + "\n".join(missing)


def alphabet() -> set[str]:
    """The letters that docs/axes.md explains."""
    page = (ROOT / "docs" / "axes.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z])` \|", page, flags=re.MULTILINE))


def test_every_letter_of_a_shape_is_in_the_alphabet():
    letters = alphabet()
    assert {"B", "T", "S", "D", "H", "K", "V"} <= letters
    unknown = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
                kind, shape = node.slice.elts
                if isinstance(shape, ast.Constant) and ast.unparse(kind).endswith(("Array", "ndarray")):
                    found = {axis for axis in re.findall(r"\b[A-Z]\b", str(shape.value)) if axis not in letters}
                    unknown += [f"{place(path, node)} {axis} in {shape.value!r}" for axis in found]
    assert not unknown, "not in docs/axes.md:\n" + "\n".join(unknown)


def test_every_axis_of_a_parameter_is_in_the_alphabet():
    page = (ROOT / "docs" / "axes.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `([a-z_]+)` \|", page, flags=re.MULTILINE))
    used = {
        constant.value
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "axes"
        for constant in ast.walk(node.value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    used -= {"axes"}  # get_metadata("axes")
    assert used <= known, f"not in docs/axes.md: {used - known}"


# Configuration


def is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def checks_alone(node: ast.ClassDef) -> Iterator[int]:
    """Yields the lines of a class where a field is declared or checked, which is no use of it."""
    for part in node.body:
        if not isinstance(part, ast.FunctionDef) or part.name in ("__post_init__", "check"):
            yield from range(part.lineno, part.end_lineno + 1)


def unread_fields(trees: dict[Path, ast.Module]) -> list[str]:
    """The fields of `...Config` dataclasses, and of other choices, that nobody reads by name but to check them."""
    readers: dict[str, set[tuple[Path, int]]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                readers.setdefault(node.attr, set()).add((path, node.lineno))
    unread = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if is_dataclass(node) and (node.name.endswith("Config") or node.name in ("Search", "Optimization")):
                inside = {(path, line) for line in checks_alone(node)}
                fields = [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]
                unread += [f"{node.name}.{name}" for name in fields if not readers.get(name, set()) - inside]
    return unread


def test_every_config_field_is_read():
    assert not (unread := unread_fields(TREES)), f"fields that nothing reads: {unread}"


def test_an_unread_config_field_is_found():
    tree = ast.parse("@dataclass(frozen=True)\nclass AConfig:\n    width: int\n    depth: int\n\nprint(config.width)\n")
    assert unread_fields({ROOT / "a.py": tree}) == ["AConfig.depth"]


def test_configs_are_frozen_and_keyword_only():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if is_dataclass(node) and node.name.endswith("Config"):
                decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
                assert "frozen=True" in decorators, f"{place(path, node)} {node.name} must be frozen"
                assert "kw_only=True" in decorators, f"{place(path, node)} {node.name} must be keyword-only"


# Sizes

LONGEST_FILE, MOST_PARAMETERS = 400, 8
LONGER_FILES = {
    "lmx/data/phrasebook/words.py",  # a table of words
}
# Where each is a plain number of one thing; there is none.
MANY_PARAMETERS: set[str] = set()


def test_no_file_is_long():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    long = {name for name, length in lengths.items() if name.startswith("lmx/") and length > LONGEST_FILE}
    assert long == LONGER_FILES
    assert lengths["experiments/translation.py"] <= 400
    assert lengths["experiments/classification.py"] <= 500
    assert lengths["experiments/vision.py"] <= 250


def test_no_function_has_many_parameters():
    found = set()
    for path, tree in TREES.items():
        if not path.is_relative_to(ROOT / "lmx"):
            continue
        owners = {
            method: node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for method in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                if len(names - {"self", "cls"}) > MOST_PARAMETERS:
                    found.add(f"{path.relative_to(ROOT).as_posix()} {owners.get(node, node.name)}")
    assert found == MANY_PARAMETERS


def test_the_loop_is_the_scripts_own():
    for name in ("translation", "classification", "vision"):
        loops = [node for node in ast.walk(TREES[ROOT / "experiments" / f"{name}.py"]) if isinstance(node, ast.For)]
        assert any(ast.unparse(node.iter) == "training" for node in loops), f"{name}.py must loop over its training"


@pytest.mark.parametrize("name", ["translation", "classification", "vision", "pretraining"])
def test_every_script_tells_what_all_tell(name: str):
    """Which parameters each optimizer takes, and one table of rules for all that a mesh splits."""
    tree = TREES[ROOT / "experiments" / f"{name}.py"]
    calls = {ast.unparse(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    given = {call: {each.arg for each in calls[call].keywords} for call in ("Learner", "place")}
    assert "updated_by" in given["Learner"]
    assert "rules" in given["place"]
    assert "spread_tables" not in ast.unparse(tree)


# Files


def test_there_is_no_utils():
    found = [place(path) for path in project_files() if re.match(r"(utils?|helpers?|misc|common)\b", path.stem)]
    assert not found, f"name the idea, not its usefulness: {found}"


def test_only_lmx_and_its_rooms_are_packages():
    packages = [path.relative_to(ROOT) for path in project_files() if path.name == "__init__.py"]
    strangers = [str(path) for path in packages if path.parts[0] != "lmx"]
    assert not strangers, f"an __init__.py here would shadow an installed package: {strangers}"
    missing = [str(p.parent) for p in PYTHON_FILES if "lmx" in p.parts and not (p.parent / "__init__.py").exists()]
    assert not missing, f"without __init__.py the wheel is incomplete: {missing}"


def test_no_file_names_a_place_on_one_machine():
    homes = "|".join(("home", "root", "Users", "work", "opt", "mnt", "scratch"))
    machine = re.compile(r"(?<![\w.~$})/-])/(?:" + homes + r")/\w")
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for _ in machine.finditer(line)]
    assert not found, "\n".join(found)


def test_constraints_are_plain_pins():
    for path in sorted((ROOT / "constraints").glob("*.txt")):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)]
        assert not wrong, f"{path.name} must hold name==version alone, got {wrong}"


def test_constraints_pin_all_that_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[\[<>=]", line)[0] for line in [*project["dependencies"], *extras["test"], *extras["docs"]]}
    for path in sorted((ROOT / "constraints").glob("*.txt")):
        pinned = {line.partition("==")[0].lower() for line in path.read_text(encoding="utf-8").split("\n")}
        assert wanted - {"lmx"} <= pinned, f"{path.name} must pin {wanted - {'lmx'} - pinned}"


# Processes

# Of these files some tests are about a process: its signals, locks, exit codes, its environment, the modules it loads.
START_PROCESSES = """
    data/test_cache data/test_encoded data/test_encoding data/test_phrasebook data/test_standard_library
    data/test_windows scoring/test_translation_scores test_checkpoint test_classification_experiment test_cli
    test_compilation test_errors test_experiments test_hosts test_house test_lock test_new_positions test_plan
    test_pretraining_experiment test_readme test_report test_run test_vision_experiment test_what_a_run_knows
""".split()


def test_only_tests_about_processes_start_one():
    """A process costs a second and a half to import jax and lmx, and compiles what this one has compiled already."""
    starts = re.compile(r"subprocess\.(?:run|Popen|check_)|multiprocessing\.(?:Process|Pool)|os\.(?:fork|system)\(")
    folder = ROOT / "tests"
    found = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("test_*.py")
        if starts.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(START_PROCESSES), "call `main` in this process where the process is not what is tested"


# Imports and the wheel


def test_importing_lmx_is_quick_and_loads_no_jax():
    program = (
        "import sys, time; started = time.perf_counter(); import lmx; seconds = time.perf_counter() - started;"
        "heavy = {'jax', 'flax', 'numpy', 'datasets'} & set(sys.modules); print(seconds, *heavy)"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *heavy = printed.stdout.split()
    assert not heavy
    assert float(seconds) < 0.5


@pytest.mark.slow
def test_a_wheel_holds_lmx_and_nothing_else(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("lmx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"lmx"}
    sources = {path.relative_to(ROOT).as_posix() for path in PYTHON_FILES if path.is_relative_to(ROOT / "lmx")}
    assert sources <= set(names)


@pytest.mark.slow
def test_all_processes_give_the_tests_the_same_names():
    """Tests are shared out between processes by name: none may hold a time, an address or the order of a set."""

    def names(seed: str) -> list[str]:
        collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow or not slow", "tests"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        printed = subprocess.run(collect, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        return [line for line in printed.splitlines() if "::" in line]

    first = names("1")
    assert len(first) > 1000
    assert names("2") == first
