"""Names of hub repositories: what is one, and what only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.hub.client import cache_folder
from nemotron_deploy.hub.name import HubName, parse_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
         HubName("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")),
        ("a/b@v1.0", HubName("a/b", "v1.0")),
        ("a/b@refs/pr/3", HubName("a/b", "refs/pr/3")),
        ("a_1/b.c-d@0123456789abcdef", HubName("a_1/b.c-d", "0123456789abcdef")),
    ],
)  # fmt: skip
def test_names(text: str, expected: HubName) -> None:
    assert parse_name(text) == expected
    assert parse_name(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["tiny", "a/b/c", "/a/b", "../a/b", "..", "../..", "a/..", "../b", "./b", "a/.b", "a//b",
     "a/b--c", "a b/c", "a/b\n", "http://a/b", "~/b", "a/", "/b", ""],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize("revision", ["", "../x", "/x", "a/../b", "x\n", "a b", "-x", "x/", "x."])
def test_revisions_that_lead_elsewhere_are_refused(revision: str) -> None:
    with pytest.raises(BadInputError, match="is not a revision"):
        parse_name(f"a/b@{revision}")


@given(st.text(alphabet="abAB01._-/@~ \n", max_size=30))
def test_every_name_stays_inside_the_cache(text: str) -> None:
    try:
        name = parse_name(text)
    except BadInputError:
        return
    if name is not None:
        folder = cache_folder(name.repository)
        assert folder.parent == cache_folder("a/b").parent
        reference = folder / "refs" / name.revision
        assert ".." not in reference.parts
        assert reference.is_relative_to(folder)
