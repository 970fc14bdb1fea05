"""Bounds and licences of what the package rests on; `tools/dependencies.py try oldest` tries the lower ends."""

import importlib.util

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def dependencies():
    spec = importlib.util.spec_from_file_location("dependencies", REPOSITORY / "tools" / "dependencies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_has_a_lower_bound(dependencies):
    for group, found in dependencies.requirements().items():
        for each in found:
            assert any(bound.operator == ">=" for bound in each.specifier), f"{each} of {group}"


def test_the_page_of_licences_is_that_of_the_bounds(dependencies):
    lines = dependencies.TABLE.read_text().split("\n\n## What these bring")[0].splitlines()
    told = {tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines if line.startswith("| ")}
    due = {
        (each.name, str(each.specifier), group)
        for group, found in dependencies.requirements().items()
        for each in found
    }
    assert told - {("what", "bounds", "for")} == due
    assert all(line.split("|")[4].strip() not in ("", "not said", "None") for line in lines if line.startswith("| "))


def test_a_licence_is_what_the_package_says(dependencies):
    assert dependencies.licence("numpy").startswith("BSD-3-Clause")
    assert "Apache" in dependencies.licence("transformers") and "GNU" in dependencies.licence("pylibjpeg-libjpeg")
