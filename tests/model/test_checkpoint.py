"""Opening checkpoints: what is read, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError, NemoDeployError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.headers import read_header


def write_shard(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(start: int = 0, end: int = 4, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [start, end]}


def split(path: Path) -> dict[str, Any]:
    """Turn a single-file checkpoint into one of two shards with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for shard, part in halves.items():
        save_file({name: tensors[name] for name in part}, path / shard)
    (path / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, part in halves.items() for name in part}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_tiny_opens_and_is_complete() -> None:
    checkpoint = Checkpoint.open(TINY)
    checkpoint.require_complete()
    assert checkpoint.bytes == checkpoint.model.bytes
    assert not checkpoint.is_quantized


def test_read_gives_the_bytes_of_the_library(tiny_copy: Path) -> None:
    import torch
    from safetensors.torch import load_file

    split(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    assert len(checkpoint.shards) == 2
    expected = load_file(TINY / "model.safetensors")
    for name in ("lm_head.weight", "backbone.layers.0.mixer.A_log"):
        raw = expected[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert bytes(checkpoint.read(name)) == raw


def test_a_missing_directory_and_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such checkpoint directory"):
        Checkpoint.open(tmp_path / "none")
    with pytest.raises(BadInputError, match=r"there is no config\.json"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": ', "\xff"])
def test_a_broken_configuration(tiny_copy: Path, text: str) -> None:
    (tiny_copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInputError, match=r"config\.json"):
        Checkpoint.open(tiny_copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_never_loaded(tiny_copy: Path, name: str) -> None:
    (tiny_copy / "model.safetensors").rename(tiny_copy / name)
    with pytest.raises(BadInputError, match=f"{name}.*pickle.*safetensors"):
        Checkpoint.open(tiny_copy)


def test_a_missing_shard_is_named(tiny_copy: Path) -> None:
    split(tiny_copy)
    (tiny_copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"model-00002-of-00002\.safetensors.*missing"):
        Checkpoint.open(tiny_copy)


def test_a_truncated_shard_is_named(tiny_copy: Path) -> None:
    shard = tiny_copy / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(BadInputError, match=r"model\.safetensors.*truncated"):
        Checkpoint.open(tiny_copy)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "a.bin", 3])
def test_an_index_may_not_leave_the_directory(tiny_copy: Path, name: object) -> None:
    index = split(tiny_copy)
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = name
    (tiny_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInputError, match="points to"):
        Checkpoint.open(tiny_copy)


def test_index_and_shards_are_compared_both_ways(tiny_copy: Path) -> None:
    index = split(tiny_copy)
    path = tiny_copy / "model.safetensors.index.json"
    first = next(iter(index["weight_map"]))
    shard = index["weight_map"].pop(first)
    path.write_text(json.dumps(index))
    with pytest.raises(BadInputError, match=rf"{first} is not in model\.safetensors\.index"):
        Checkpoint.open(tiny_copy)
    index["weight_map"] |= {first: shard, "ghost.weight": shard}
    path.write_text(json.dumps(index))
    with pytest.raises(BadInputError, match=r"ghost\.weight of the index is not in this shard"):
        Checkpoint.open(tiny_copy)


def test_missing_unknown_and_misshapen_tensors_are_named(tiny_copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    shard = tiny_copy / "model.safetensors"
    tensors = load_file(shard)
    name = "backbone.layers.1.mixer.experts.3.up_proj.weight"
    for change, message in (
        ({name: None}, rf"{name} is missing"),
        ({name: tensors[name][:-2].contiguous()}, rf"{name} has shape \[190, 128\]"),
        ({"extra.weight": tensors[name].clone()}, r"extra\.weight is not part"),
    ):
        changed = {key: value for key, value in (tensors | change).items() if value is not None}
        save_file(changed, shard)
        with pytest.raises(BadInputError, match=message):
            Checkpoint.open(tiny_copy).require_complete()


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 8)}, b"\0" * 8, "claims 8 bytes"),
        ({"a": entry(0, 4)}, b"\0" * 3, "truncated"),
        ({"a": entry(0, 4)}, b"\0" * 5, "1 bytes follow"),
        ({"a": entry(4, 8)}, b"\0" * 8, "hole or overlaps"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4, "hole or overlaps"),
        ({"a": entry(-4, 0)}, b"", "no whole numbers"),
        ({"a": entry(0, 4, shape=[-1])}, b"\0" * 4, "no whole numbers"),
        ({"a": entry(0, 4, shape=[2**62, 2**62])}, b"\0" * 4, "claims 4 bytes"),
        ({"a": entry(dtype="COMPLEX")}, b"\0" * 4, "unsupported dtype"),
        ({"a": {"dtype": "F32"}}, b"", "malformed"),
        ({"a": 3}, b"", "malformed"),
        ({"bad\0name": entry()}, b"\0" * 4, "control characters"),
        ([1, 2], b"", "no JSON object"),
        (b"{", b"", "broken"),
        (b'{"a":{},"a":{}}', b"", "twice"),
        (b"\xff\xfe", b"", "broken"),
        (b"[" * 100_000, b"", "broken"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    shard = write_shard(tmp_path / "x.safetensors", header, data)
    with pytest.raises(BadInputError, match=message):
        read_header(shard)


@pytest.mark.parametrize("length", [0, 1, 1000, 2**32, 2**63, 2**64 - 1])
def test_header_lengths_that_lie_allocate_nothing(tmp_path: Path, length: int) -> None:
    shard = tmp_path / "x.safetensors"
    shard.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(BadInputError, match=r"x\.safetensors"):
        read_header(shard)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shard = tmp_path_factory.getbasetemp() / "any.safetensors"
    shard.write_bytes(struct.pack("<Q", max(0, len(data) - 8)) + data)
    try:
        read_header(shard)
    except NemoDeployError as error:
        assert "any.safetensors" in str(error)


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=5),
    dtype=st.sampled_from(["F32", "BF16", "U8"]),
)
def test_well_formed_headers_are_read(
    shapes: list[list[int]], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import math

    size = {"F32": 4, "BF16": 2, "U8": 1}[dtype]
    header, position = {}, 0
    for number, shape in enumerate(shapes):
        end = position + math.prod(shape) * size
        header[f"t{number}"] = entry(position, end, shape, dtype)
        position = end
    path = tmp_path_factory.getbasetemp() / "good.safetensors"
    found, _ = read_header(write_shard(path, header, b"\0" * position))
    assert {name: list(info.shape) for name, info in found.items()} == {
        f"t{number}": shape for number, shape in enumerate(shapes)
    }
