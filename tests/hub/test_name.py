"""Names of hub repositories: what is one, and what only looks like one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.hub.client import cache_folder
from nemotron_deploy.hub.name import HubName, from_address, parse_name


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


NANO = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (f"https://huggingface.co/{NANO}", NANO),
        (f"https://huggingface.co/{NANO}/", NANO),
        (f"http://www.huggingface.co/{NANO}?library=vllm#usage", NANO),
        (f"HTTPS://HuggingFace.co/{NANO}/tree/main", NANO),
        (f"https://huggingface.co/{NANO}/tree/v1.1", f"{NANO}@v1.1"),
        (f"https://huggingface.co/{NANO}/tree/v1.1/sub/folder", f"{NANO}@v1.1"),
        (f"https://huggingface.co/{NANO}/tree/fix%2Ftokenizer", f"{NANO}@fix/tokenizer"),
        (f"https://huggingface.co/{NANO}/tree/refs%2Fpr%2F3", f"{NANO}@refs/pr/3"),
        (f"https://huggingface.co/{NANO}/tree/refs/pr/3/sub", f"{NANO}@refs/pr/3"),
        (f"https://huggingface.co/{NANO}/blob/main/config.json", NANO),
        (f"https://huggingface.co/{NANO}/resolve/0123abc/config.json?download=true",
         f"{NANO}@0123abc"),
        (f"https://huggingface.co/{NANO}/commit/0123abc", f"{NANO}@0123abc"),
        (f"https://huggingface.co/{NANO}/discussions/5", NANO),
        (f"https://huggingface.co/{NANO}.git", NANO),
        (f"https://user:hf_secret@huggingface.co/{NANO}", NANO),
        (f"git+https://huggingface.co/{NANO}", NANO),
        (f"https://hf.co/{NANO}", NANO),
        (f"hf.co/{NANO}/tree/main", NANO),
        (f"huggingface.co/{NANO}", NANO),
        (f"hf://{NANO}", NANO),
        (f"hf://models/{NANO}@v1.1", f"{NANO}@v1.1"),
        (f"git@hf.co:{NANO}", NANO),
        (f"ssh://git@hf.co/{NANO}.git", NANO),
        (f" https://huggingface.co/{NANO}\n", NANO),
        (f"https://mirror.example:8443/{NANO}/tree/main", NANO),
        (f"mirror.example:8443/{NANO}", NANO),
        (f"{NANO}/tree/v1.1", f"{NANO}@v1.1"),
        (f"{NANO}/", NANO),
        # No addresses
        (NANO, NANO),
        (f"{NANO}@v1.1", f"{NANO}@v1.1"),
        ("nemotron-3-nano-30b-a3b", "nemotron-3-nano-30b-a3b"),
        ("./models/nano", "./models/nano"),
        ("/models/nano/", "/models/nano/"),
        ("a/b/c", "a/b/c"),
        ("", ""),
    ],
)  # fmt: skip
def test_an_address_of_the_hub_is_a_name(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443")
    assert from_address(address) == name


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://github.com/NVIDIA/NeMo", "GitHub has code, not weights"),
        ("github.com/NVIDIA/NeMo", "GitHub has code, not weights"),
        ("git@github.com:NVIDIA/NeMo.git", "GitHub has code, not weights"),
        ("https://catalog.ngc.nvidia.com/orgs/nvidia/models/x", "its own `ngc` tool"),
        ("https://build.nvidia.com/nvidia/nemotron-3-nano-30b-a3b", "through an API"),
        ("https://www.modelscope.cn/models/nv/x", "its own `modelscope` tool"),
        ("https://example.com/a/b", "example.com is not the Hugging Face hub"),
        ("https://mirror.example/a/b", "set HF_ENDPOINT"),
        ("https://huggingface.co/nvidia", "is not the address of a model repository"),
        ("https://huggingface.co", "is not the address of a model repository"),
        ("https://huggingface.co/datasets/nvidia/x", "one of the hub's datasets"),
        ("https://huggingface.co/collections/nvidia/nemotron", "one of the hub's collections"),
        ("https://huggingface.co/../x", "is not the address of a model repository"),
        ("https://huggingface.co/a/b/tree/..%2F..", "is not a revision"),
        ("hf://nvidia", "is not the address of a model repository"),
    ],
)
def test_other_addresses_get_one_message(address: str, says: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(says)):
        from_address(address)


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
