"""YAML of others: read as plain data, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime.yaml_reader import load_yaml, read_yaml, read_yaml_document

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


def test_documents_are_read(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("a: 1\n---\n---\nb: [x, 'y']\n")
    assert read_yaml(tmp_path / "two.yaml") == [{"a": 1}, {"b": ["x", "y"]}]
    with pytest.raises(ValueError, match="holds 2 documents"):
        read_yaml_document(tmp_path / "two.yaml")
    (tmp_path / "one.yaml").write_text("a: 1\n")
    assert read_yaml_document(tmp_path / "one.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "line 2: aliases"),
        ("a: &a {x: 1}\nb: {<<: *a}\n", "line 2: aliases"),
        ("[" * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        (f"[{'a, ' * 300_000}]", "over 200000 values"),
        (":".join(["1"] * 100_000), "without quotes"),
        (f"'{'a' * 4_000_001}'", "too large"),
        ("a: [", "while parsing"),
        ("a: \x00", "control characters"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: \ud800", "surrogates"),
    ],
)
def test_what_is_not_read(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_yaml(text)


@given(st.text(alphabet="ab:*&!-?|>{}[],#'\"% \n\t019.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(load_yaml(text), list)
    except ValueError as error:
        assert str(error)
