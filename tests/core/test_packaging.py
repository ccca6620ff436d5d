"""The wheel holds every package and every data file."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "nemotron_deploy"
NOT_IN_THE_WHEEL = {"tests", "benchmarks", "scripts", "docs", "dist"}


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["tool"]["setuptools"]
    return table


def folders() -> list[Path]:
    """Every folder of code below the root, relative to it."""
    tops = [
        path
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in NOT_IN_THE_WHEEL
    ]
    found = [path.parent for top in tops for path in top.rglob("*.py")]
    return sorted({path.relative_to(ROOT) for path in found if path.name != "data"})


def test_every_folder_of_code_is_a_package_of_the_wheel(setuptools: dict[str, Any]) -> None:
    names = [".".join((PACKAGE, *folder.parts)) for folder in folders()]
    assert len(names) > 10
    assert sorted([PACKAGE, *names]) == sorted(setuptools["packages"])
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders())


def test_every_data_file_is_in_the_wheel(setuptools: dict[str, Any]) -> None:
    packages = set(setuptools["packages"])
    left_out = []
    for top in {folder.parts[0] for folder in folders()}:
        for path in (ROOT / top).rglob("*"):
            name = path.relative_to(ROOT)
            if not path.is_file() or "__pycache__" in name.parts:
                continue
            owner = name.parent
            while ".".join((PACKAGE, *owner.parts)) not in packages:
                owner = owner.parent
            inside = PurePosixPath(name.relative_to(owner))
            globs = setuptools["package-data"].get(".".join((PACKAGE, *owner.parts)), [])
            if path.suffix == ".py" and len(inside.parts) == 1:
                continue  # a module
            if not any(inside.match(glob) for glob in globs):
                left_out.append(str(name))
    assert not left_out


def test_every_pattern_of_data_matches_a_file(setuptools: dict[str, Any]) -> None:
    for package, globs in setuptools["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for glob in globs:
            assert list(folder.glob(glob)), f"{package}: {glob}"
