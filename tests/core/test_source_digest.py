"""Digests of the package's own sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_deploy.core.source_digest import source_digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/one.py", "a/deep/two.txt", "b.py", "c/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def digest(root: Path) -> str:
    return source_digest("a", "b.py", root=root)


def test_content_and_names_of_every_listed_file_count(root: Path) -> None:
    before = digest(root)
    assert digest(root) == before
    assert source_digest("b.py", "a", root=root) == before
    for name in ("a/one.py", "a/deep/two.txt", "b.py"):
        (root / name).write_text("changed")
        assert digest(root) != before, name
        (root / name).write_text(name)
    (root / "a/one.py").rename(root / "a/uno.py")
    assert digest(root) != before


def test_other_files_and_caches_do_not_count(root: Path) -> None:
    before = digest(root)
    (root / "c/other.py").write_text("changed")
    (root / "a/__pycache__").mkdir()
    (root / "a/__pycache__/one.cpython-311.pyc").write_bytes(b"x")
    assert digest(root) == before


def test_a_part_that_is_missing_is_an_error(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        source_digest("gone", root=root)
