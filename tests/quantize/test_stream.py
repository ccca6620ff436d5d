"""The shard streamer: what it writes, and what it refuses to write."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize.shard_writer import Entry, ShardWriter
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime import formats

EXPERT = "backbone.layers.1.mixer.experts.3.down_proj.weight"


def damaged(path: Path, **tensors: torch.Tensor) -> Checkpoint:
    shard = path / "model.safetensors"
    save_file(load_file(shard) | tensors, shard)
    return Checkpoint.open(path)


def test_int4_decodes_close_to_the_source(tmp_path: Path) -> None:
    seen: list[int] = []
    summary = quantize(
        Checkpoint.open(TINY),
        CONSERVATIVE["int4"],
        tmp_path,
        on_progress=lambda done, *_: seen.append(done),
    )
    source = load_file(TINY / "model.safetensors")
    decoded = formats.decode_checkpoint(load_file(tmp_path / "model.safetensors"))
    assert {n: (t.shape, t.dtype) for n, t in decoded.items()} == {
        n: (t.shape, t.dtype) for n, t in source.items()
    }
    experts = [name for name in source if "expert" in name]
    assert summary.tensors == len(experts)
    for name in source:
        error = (decoded[name].float() - source[name].float()).norm() / source[name].float().norm()
        assert float(error) < 0.15 if name in experts else torch.equal(decoded[name], source[name])
    assert seen == sorted(seen)
    assert seen[-1] == summary.source_bytes
    written = Checkpoint.open(tmp_path)
    assert written.is_quantized
    assert written.bytes == summary.written_bytes
    assert written.bytes == CONSERVATIVE["int4"].weights_bytes(Checkpoint.open(TINY).model)


def test_shards_and_companions_keep_their_names(tiny_copy: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_copy / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:40]}
    shards["model-00002-of-00002.safetensors"] = names[40:]
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, tiny_copy / shard)
    (tiny_copy / "model.safetensors").unlink()
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = tiny_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tiny_copy / "modeling_nemotron_h.py").write_text("raise SystemExit")
    out = tmp_path / "out"
    out.mkdir()
    quantize(Checkpoint.open(tiny_copy), CONSERVATIVE["int4"], out)
    written = {path.name for path in out.iterdir()}
    source = {path.name for path in tiny_copy.iterdir()}
    assert written == (source | {"hf_quant_config.json"}) - {
        "training.json", "modeling_nemotron_h.py"
    }  # fmt: skip
    Checkpoint.open(out)
    quantized = formats.decode_checkpoint(
        {n: t for shard in shards for n, t in load_file(out / shard).items()}
    )
    assert set(quantized) == set(tensors)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (0.0, "all zero")],
)
def test_unusable_weights_are_refused_by_name(
    tiny_copy: Path, tmp_path: Path, value: float, message: str
) -> None:
    weight = load_file(TINY / "model.safetensors")[EXPERT]
    weight[5, 64:128] = value
    checkpoint = damaged(tiny_copy, **{EXPERT: weight})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInputError, match=f"{EXPERT}: the group .*{message}"):
        quantize(checkpoint, CONSERVATIVE["int4"], out)


def test_a_wrong_dtype_is_refused_by_name(tiny_copy: Path, tmp_path: Path) -> None:
    weight = load_file(TINY / "model.safetensors")[EXPERT].to(torch.int32)
    checkpoint = damaged(tiny_copy, **{EXPERT: weight})
    with pytest.raises(BadInputError, match=rf"{EXPERT} has dtype I32; .*BF16, F16, F32"):
        quantize(checkpoint, CONSERVATIVE["int4"], tmp_path)


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    quantize(Checkpoint.open(TINY), CONSERVATIVE["int4"], first)
    with pytest.raises(BadInputError, match="is already quantized"):
        quantize(Checkpoint.open(first), CONSERVATIVE["int4"], second)


@pytest.mark.parametrize("amax", [None, {}, {EXPERT: 1.0}])
def test_fp8_without_all_activation_scales_is_refused(
    tmp_path: Path, amax: dict[str, float] | None
) -> None:
    with pytest.raises(RefusedError, match=r"activation scales are missing.*--quant int4"):
        quantize(Checkpoint.open(TINY), CONSERVATIVE["fp8"], tmp_path, activation_amax=amax)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BadInputError, match=r"model\.safetensors: no room for \d\.\d\d MB"):
            quantize(Checkpoint.open(TINY), CONSERVATIVE["int4"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8, "I64": torch.int64}


@given(
    tensors=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_files_equal_those_of_the_safetensors_library(
    tensors: dict[str, tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    values = {
        name: torch.full(shape, 3, dtype=DTYPES[kind]) for name, (kind, shape) in tensors.items()
    }
    entries = [Entry(name, kind, tuple(shape)) for name, (kind, shape) in tensors.items()]
    with ShardWriter(folder / "ours", entries) as writer:
        for name, value in values.items():
            writer.write(name, value.view(-1).view(torch.uint8).numpy().tobytes())
    save_file(values, folder / "theirs", metadata={"format": "pt"})
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_an_entry_that_was_never_written_is_noticed(tmp_path: Path) -> None:
    entries = [Entry("a", "U8", (1,)), Entry("b", "U8", (1,))]
    with (
        pytest.raises(BadInputError, match="tensor b was not written completely"),
        ShardWriter(tmp_path / "x", entries) as writer,
    ):
        writer.write("a", b"1")
