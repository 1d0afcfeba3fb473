"""The versions that the requirements admit: the oldest of one package must work with the newest of another."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))

# What was seen to fail: this one, up to the version named, together with that one, from the version named on.
FAILING = (("flax", "0.12.9", "jax", "0.12.0", "does not import: jax.experimental.hijax lost HiPrimitive"),)


def constraints_of(python: str) -> dict[str, Version]:
    """The versions that the tests run with on a Python, as the Makefile chooses them."""
    name = "jax-0.10.txt" if Version(python) < Version("3.12") else "jax-newest.txt"
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").split()
    return {package.lower(): Version(version) for package, _, version in (line.partition("==") for line in lines)}


def ranges_of(python: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for on a Python; each package once."""
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["classification"]]
    found = [Requirement(line) for line in lines]
    found = [one for one in found if one.marker is None or one.marker.evaluate({"python_version": python})]
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def floor_of(requirement: Requirement) -> Version:
    (floor,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
    return floor


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_tested_lies_in_the_ranges(python):
    tested = constraints_of(python)
    for name, requirement in ranges_of(python).items():
        assert tested[name] in requirement.specifier, f"{name}=={tested[name]} is tested, {requirement} is asked for"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_oldest_of_one_package_works_with_the_newest_of_another(python):
    ranges, newest = ranges_of(python), constraints_of(python)
    for older, up_to, newer, since, why in FAILING:
        if newest[newer] >= Version(since):
            assert floor_of(ranges[older]) > Version(up_to), f"{older} {up_to} with {newer} {newest[newer]} {why}"


def test_every_python_has_its_packages():
    assert len(PYTHONS) == 3
    for python in PYTHONS:
        assert {"flax", "jax", "optax", "orbax-checkpoint", "safetensors"} <= ranges_of(python).keys()
