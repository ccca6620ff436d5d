"""Reading what somebody else made: inside one directory, bounded, as nothing but data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.core.untrusted import open_inside, require_links_inside
from nemotron_deploy.runtime.untrusted import (
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    brief,
    parse_json,
    signature,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.floats(-1e300, 1e300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_ordinary_json_is_read_as_ever(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_reason(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff", "utf-8"),
        (b'{"a":1,"a":2}', "a key stands in it twice"),
        (b"[1e400]", "out of range"),
        (b"[NaN]", "NaN"),
        (b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1), "nested deeper"),
        (b"[" * 100_000, "nested deeper|Expecting"),
        (b"[" + b"0," * MAX_JSON_VALUES + b"0]", "values stand in it"),
    ],
)
def test_what_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_links_inside_and_into_a_cache_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "real").write_bytes(b"x")
    (folder / "link").symlink_to("real")
    cached = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    cached.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_bytes(b"y")
    (cached / "file").symlink_to("../../blobs/abc")
    for path, content in ((folder / "link", b"x"), (cached / "file", b"y")):
        with open_inside(path) as file:
            assert file.read() == content
    require_links_inside(folder)
    require_links_inside(cached)


@pytest.mark.parametrize("target", ["/etc/hostname", "../secret", "../../blobs-of-others/x"])
def test_links_outwards_are_not(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "a" / "checkpoint"
    folder.mkdir(parents=True)
    (folder.parent / "secret").write_bytes(b"s")
    (folder / "link").symlink_to(target)
    with pytest.raises(BadInputError, match=r"link: is a link to .*outside of the checkpoint"):
        require_links_inside(folder)
    if (folder / "link").exists():
        with pytest.raises(BadInputError, match="outside of the checkpoint"):
            open_inside(folder / "link")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="is no regular file"):
        open_inside(tmp_path / "pipe")


def test_a_signature_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def of() -> object:
        with path.open("rb") as file:
            return signature(file.fileno())

    path.write_bytes(b"one")
    first = of()
    assert of() == first
    other = tmp_path / "y"
    other.write_bytes(b"one")
    other.replace(path)
    assert of() != first


@given(st.one_of(JSON, st.text(max_size=300)))
def test_whatever_is_shown_is_one_short_line(value: object) -> None:
    shown = brief(value)
    assert len(shown) <= 60
    assert all(" " <= letter <= "~" or letter == "…" for letter in shown)
