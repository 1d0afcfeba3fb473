"""The layer guard: imports go strictly down, and what only one room may do, only that room does."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The higher imports the lower. A name stands for a module or for all of a folder; the longest that fits counts.
LEVELS = {
    12: ("lmx.__main__",),
    11: ("lmx.cli", "experiments", "benchmarks"),
    10: ("lmx.translate_command", "lmx.writing_commands", "lmx.interop_commands", "lmx.perplexity_command"),
    9: (
        "lmx.asked",
        "lmx.streams",
        "lmx.loop",
        "lmx.experiment",
        "lmx.planning",
        "lmx.evaluation",
        "lmx.data_commands",
        "lmx.trainings",
    ),
    8: (
        "lmx.fitting",
        "lmx.kernel_facts",
        "lmx.meter",
        "lmx.pretrained",
        "lmx.report",
        "lmx.generator",
        "lmx.fill_mask",
    ),
    7: (
        *("lmx.run", "lmx.plan", "lmx.classifier", "lmx.image_classifier", "lmx.translator", "lmx.writer"),
        *("lmx.interop", "lmx.embedder"),
    ),
    6: (
        *(
            "lmx.account",
            "lmx.objective",
            "lmx.config",
            "lmx.learner",
            "lmx.search",
            "lmx.translation_batches",
            "lmx.target_scores",
            "lmx.explanation",
            "lmx.generation",
            "lmx.predictor",
        ),
        *("lmx.scoring.tested",),
    ),
    5: (
        *("lmx.training", "lmx.decoding", "lmx.checkpoint", "lmx.saved", "lmx.data", "lmx.scoring", "lmx.memory"),
        "lmx.continuation",
        "lmx.unstacked",
    ),
    4: ("lmx.models", "lmx.parameters", "lmx.constraints"),
    3: ("lmx.frames", "lmx.languages", "lmx.lora", "lmx.nn.flops", "lmx.nn.transformer", "lmx.sampling", "lmx.words"),
    2: (
        "lmx.checksums",
        "lmx.losses",
        "lmx.nn.attention",
        "lmx.nn.config",
        "lmx.nn.embedding",
        "lmx.nn.feedforward",
        "lmx.nn.stack",
        "lmx.optimizers",
        "lmx.process",
        "lmx.text",
    ),
    1: (
        *("lmx.nn.kernels", "lmx.nn.layers", "lmx.nn.positions", "lmx.nn.remat", "lmx.nn.vocabulary"),
        *(
            "lmx.chunked_loss",
            "lmx.collectives",
            "lmx.console",
            "lmx.definition",
            "lmx.reasons",
            "lmx.symbols",
            "lmx.token_list",
        ),
        "lmx.foreign_pieces",
    ),
    0: (
        "lmx.nn.dropout",
        "lmx.nn.initializers",
        "lmx.nn.masks",
        "lmx.augmentation",
        "lmx.compilation",
        "lmx.costs",
        "lmx.devices",
        "lmx.differences",
        "lmx.errors",
        "lmx.foreign_text",
        "lmx.hosts",
        "lmx.largest",
        "lmx.lock",
        "lmx.optimization",
        "lmx.programs",
        "lmx.lines",
        "lmx.pieces",
        "lmx.sentence_pieces",
        "lmx.training_text",
        "lmx.sharding",
        "lmx.versions",
    ),
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}
# Folders whose files may share a file of the same folder.
SHARING = (
    "lmx.sharding",
    "lmx.nn.positions",
    "lmx.models",
    "lmx.data",
    "lmx.evaluation",
    "lmx.scoring",
    "lmx.report",
    "lmx.plan",
    "lmx.interop",
    "benchmarks",
)
# Folders that are entered by their own name: __init__.py is a module like any other, above the files it imports.
DOORS = {"lmx.report", "lmx.plan"}
# Imported where they are used: extras, and what is slow to load and not always needed.
ON_DEMAND = {
    "PIL",
    "datasets",
    "grain",
    "matplotlib",
    "sacremoses",
    "safetensors",
    "sklearn",
    "subword_nmt",
    "tensorboardX",
    "tokenizers",
}
FORBIDDEN = {
    "pickle": "never pickle: JSON, safetensors, SentencePiece and Orbax only",
    "dill": "never pickle: JSON, safetensors, SentencePiece and Orbax only",
    "cloudpickle": "never pickle: JSON, safetensors, SentencePiece and Orbax only",
    "jax.experimental.pjit": "deprecated: jax.jit takes shardings",
}


def module_of(path: Path) -> str:
    """`lmx/nn/masks.py` -> `lmx.nn.masks`; `lmx/nn/__init__.py` -> `lmx.nn`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, ast.Module]:
    paths = [path for room in ("lmx", "experiments", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
    return {module_of(path): ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in paths}


MODULES = sources()
PACKAGES = {module_of(path) for path in (ROOT / "lmx").rglob("__init__.py")}


def level_of(module: str) -> int | None:
    names = [name for name in LEVEL_OF if module == name or module.startswith(name + ".")]
    return LEVEL_OF[max(names, key=len)] if names else None


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yields the modules that a tree imports anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def imports_at_the_top(tree: ast.Module) -> Iterator[str]:
    """Yields what importing the module imports: all but what stands inside functions."""
    for node in tree.body:
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from imports_of(node)


def is_in(room: str, module: str) -> bool:
    """Whether a module is a file of the folder, or its door."""
    return module.startswith(f"{room}.") or (module == room and room in DOORS)


def fault(importer: str, imported: str) -> str | None:
    """What is wrong with an import between two modules of ours, or None."""
    if imported == "lmx":  # the version
        return None
    if imported in PACKAGES - DOORS or imported.endswith(".__init__"):
        return f"{importer} imports the folder {imported}: import from the module that defines the name"
    above, below = level_of(importer), level_of(imported)
    if above is None or below is None or above > below:
        return None
    if above == below and any(is_in(room, importer) and imported.startswith(f"{room}.") for room in SHARING):
        return None
    return f"{importer} (level {above}) must not import {imported} (level {below}): imports go strictly down"


def ours(tree: ast.AST) -> list[str]:
    return [name for name in imports_of(tree) if name.partition(".")[0] in ("lmx", "experiments", "benchmarks")]


def test_every_module_has_a_level():
    homeless = [module for module in MODULES if module not in PACKAGES and level_of(module) is None]
    assert not homeless, f"modules without a level, place them in LEVELS: {homeless}"


def test_imports_go_strictly_down():
    faults = [fault(importer, imported) for importer, tree in MODULES.items() for imported in ours(tree)]
    assert not (found := [text for text in faults if text]), "\n".join(found)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("lmx.training", "lmx.losses", ""),
        ("lmx.losses", "lmx.training", "lmx.losses (level 2) must not import lmx.training (level 5)"),
        ("lmx.training", "lmx.decoding", "must not import lmx.decoding (level 5)"),
        ("lmx.data.parallel", "lmx.data.files", ""),
        ("lmx.data.parallel", "lmx.scoring.translation", "must not import lmx.scoring.translation"),
        ("lmx.run", "lmx.nn", "lmx.run imports the folder lmx.nn"),
        ("lmx.run", "lmx", ""),
        ("lmx.cli", "lmx.report", ""),
        ("lmx.report", "lmx.report.page", ""),
        ("lmx.report.page", "lmx.report", "must not import lmx.report (level 8): imports go strictly down"),
    ],
)
def test_the_guard_sees_an_import_that_goes_up_or_sideways(importer: str, imported: str, expected: str):
    found = fault(importer, imported) or ""
    assert expected in found
    assert bool(expected) == bool(found)


def test_shared_files_do_not_import_each_other_in_a_circle():
    unfinished = {importer: set(ours(tree)) & set(MODULES) - (PACKAGES - DOORS) for importer, tree in MODULES.items()}
    while leaves := {module for module, below in unfinished.items() if not below}:
        unfinished = {module: below - leaves for module, below in unfinished.items() if module not in leaves}
    assert not unfinished, f"these import each other: {sorted(unfinished)}"


def test_packages_hold_a_docstring_and_nothing_else():
    for package in PACKAGES - {"lmx"} - DOORS:
        assert len(MODULES[package].body) == 1, f"{package}/__init__.py must hold its docstring alone"
        assert ast.get_docstring(MODULES[package]), f"{package}/__init__.py must hold its docstring"


def test_only_sharding_builds_meshes_and_partition_specs():
    builders = {"Mesh", "NamedSharding", "P", "PartitionSpec", "make_mesh", "create_device_mesh"}
    for module, tree in MODULES.items():
        if module.startswith("lmx.sharding") or not module.startswith("lmx"):
            continue
        from_sharding = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lmx.sharding.")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", None))
                assert name not in builders - from_sharding, f"{module}:{node.lineno} calls {name}: lmx.sharding's task"


def test_data_and_text_are_numpy_only():
    for module, tree in MODULES.items():
        of_text = (
            "lmx.text",
            "lmx.foreign_pieces",
            "lmx.sentence_pieces",
            "lmx.foreign_text",
            "lmx.training_text",
            "lmx.words",
            "lmx.lines",
        )
        if module in of_text or module.startswith("lmx.data"):
            roots = {name.partition(".")[0] for name in imports_of(tree)}
            assert not roots & {"jax", "flax", "optax"}, f"{module} must not import {roots & {'jax', 'flax', 'optax'}}"


def test_optional_and_slow_packages_are_imported_where_they_are_used():
    for module, tree in MODULES.items():
        if module.startswith("lmx"):
            found = {name.partition(".")[0] for name in imports_at_the_top(tree)} & ON_DEMAND
            assert not found, f"{module} imports {found} at the top: import it in the function that needs it"


def test_nothing_forbidden_is_imported():
    for module, tree in MODULES.items():
        for name in imports_of(tree):
            assert name not in FORBIDDEN, f"{module} imports {name}: {FORBIDDEN[name]}"


def test_every_import_is_of_a_declared_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {plain(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}
    installed = importlib.metadata.packages_distributions()
    for module, tree in MODULES.items():
        for root in {name.partition(".")[0] for name in imports_of(tree)} - set(sys.stdlib_module_names):
            names = {plain(name) for name in installed.get(root, [root])}
            assert names & (declared | {"lmx", "experiments", "benchmarks"}), f"{module} imports {root}: not declared"


def plain(distribution: str) -> str:
    """`PyYAML` and `pyyaml`, `a_b` and `a-b` are one package."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_rules_of_a_mesh_are_handed_on_wherever_they_are_asked_for():
    """A default serves who calls from outside; inside the package it would be forgotten silently."""
    asked = {
        (module, node.name)
        for module, tree in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "rules" in {each.arg for each in node.args.kwonlyargs}
    }
    assert len(asked) > 15
    calls = 0
    for module, tree in ((name, tree) for name, tree in MODULES.items() if name.startswith("lmx.")):
        known = {name for home, name in asked if home == module}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                known |= {each.asname or each.name for each in node.names if (node.module, each.name) in asked}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                calls += 1
                given = {each.arg for each in node.keywords}
                assert given & {"rules", None}, f"{module}:{node.lineno} calls {node.func.id} without its rules"
    assert calls > 25
