"""Taking a quantized checkpoint over: the same integers and scales, checked, nothing rounded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.quantize.layouts import LAYOUTS
from nemotron_deploy.quantize.stream import Summary, bytes_needed, run
from nemotron_deploy.quantize.takeover import takeover
from nemotron_deploy.runtime.formats import decode_checkpoint
from nemotron_deploy.tests.model.bent import Case, Maker, both, renamed, shards
from nemotron_deploy.tests.model.quantized_cases import (
    FP8_FILES,
    NVIDIA,
    TAKEN_OVER,
    Encode,
    Parts,
    encoded,
    experts,
    int4,
    int8_rows,
    llm_compressor,
    modelopt,
    nvfp4,
    nvfp4_inputs,
    packed,
)

EXPERT = "backbone.layers.4.mixer.experts.3.up_proj."
COMPRESSED = LAYOUTS["compressed-tensors"]


def title(case: Case) -> str:
    return case.title


def take_over(source: Path, out: Path, state: Path | None = None) -> Summary:
    out.mkdir(exist_ok=True)
    return run(takeover(Checkpoint.open(source)), out, state=state)


def tensors_in(directory: Path) -> dict[str, Tensor]:
    return {n: t for shard in directory.glob("*.safetensors") for n, t in load_file(shard).items()}


def hub_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("model.layers.", "backbone.layers.", 1): t for name, t in tensors.items()}


def change(directory: Path, name: str, to: Callable[[Tensor], Tensor]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: to(tensors[name])}, path)


@pytest.mark.parametrize("case", TAKEN_OVER, ids=title)
def test_every_weight_is_what_it_was(case: Case, tiny_copy: Path, tmp_path: Path) -> None:
    case.make(tiny_copy)
    before = tensors_in(tiny_copy)
    if "model." in case.title:
        before = {name.replace("model.", "backbone.", 1): t for name, t in before.items()}
    summary = take_over(tiny_copy, tmp_path / "out")
    after = tensors_in(tmp_path / "out")
    expected = decode_checkpoint(before, torch.float32)
    found = decode_checkpoint(after, torch.float32)
    expected = {name: t for name, t in expected.items() if not name.endswith("output_scale")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert summary.written_bytes == sum(t.numel() * t.element_size() for t in after.values())
    scales = {name: t for name, t in after.items() if name.endswith("input_scale")}
    assert all(torch.equal(t, before[name].float().view(())) for name, t in scales.items())
    stored = [name for name in before if "layers.3.mixer" in name and "scale" in name]
    named = [f"backbone.layers.3.mixer.{side}_proj.{side}_scale" for side in "kv"]
    assert [name for name in after if name in named] == named[: len(stored)]
    assert all(after[name] == torch.tensor(0.01) for name in named[: len(stored)])
    opened = Checkpoint.open(tmp_path / "out")
    assert opened.quantization is not None
    assert opened.quantization.layout == "modelopt"
    assert opened.quantization.agrees
    assert not opened.differences


def test_shards_in_the_right_layout_stay_the_files_they_are(
    tiny_copy: Path, tmp_path: Path
) -> None:
    both(NVIDIA, FP8_FILES, shards(3))(tiny_copy)
    out = tmp_path / "out"
    take_over(tiny_copy, out)
    for shard in tiny_copy.glob("*.safetensors"):
        assert (out / shard.name).samefile(shard)
    for name in ("config.json", "hf_quant_config.json", "model.safetensors.index.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (out, tiny_copy))
        assert ours.get("weight_map", ours) == theirs.get("weight_map", theirs)


def test_links_take_no_space(tiny_copy: Path, tmp_path: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    assert checkpoint.quantization is not None
    recipe = checkpoint.quantization.recipe
    whole = bytes_needed(checkpoint, recipe)
    assert bytes_needed(checkpoint, recipe, out=tmp_path) < whole - checkpoint.bytes


def test_a_file_that_others_could_not_read_is_copied(tiny_copy: Path, tmp_path: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    shard = tiny_copy / "model.safetensors"
    shard.chmod(0o600)
    take_over(tiny_copy, tmp_path / "out")
    copy = tmp_path / "out" / "model.safetensors"
    assert not copy.samefile(shard)
    assert copy.read_bytes() == shard.read_bytes()


def test_a_shard_under_other_names_is_written_anew(tiny_copy: Path, tmp_path: Path) -> None:
    prefixed = renamed(lambda name: name.replace("backbone.", "model."))
    both(NVIDIA, FP8_FILES, prefixed)(tiny_copy)
    take_over(tiny_copy, tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").notes == ()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["weight_scale", "input_scale"])
def test_broken_scales_are_named(
    suffix: str, value: float, tiny_copy: Path, tmp_path: Path
) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    change(tiny_copy, EXPERT + suffix, lambda scale: torch.full_like(scale, value))
    with pytest.raises(BadInputError, match=f"{EXPERT}{suffix} holds a scale that is no positive"):
        take_over(tiny_copy, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_broken_scale_of_one_group(tiny_copy: Path, tmp_path: Path) -> None:
    both(encoded(experts, packed), llm_compressor())(tiny_copy)

    def spoil(scale: Tensor) -> Tensor:
        scale[5, 1] = 0
        return scale

    change(tiny_copy, f"{EXPERT}weight_scale", spoil)
    with pytest.raises(BadInputError, match=f"{EXPERT}weight_scale holds a scale"):
        take_over(tiny_copy, tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "answer"), [(0.0, None), (-1.0, "no positive"), (float("nan"), "no positive")]
)
def test_a_block_of_zeros_has_a_scale_of_zero(
    value: float, answer: str | None, tiny_copy: Path, tmp_path: Path
) -> None:
    """NVFP4 alone: of a block far smaller than the largest of its matrix nothing is left."""
    both(encoded(experts, nvfp4), modelopt("W4A16_NVFP4"))(tiny_copy)

    def spoil(scale: Tensor) -> Tensor:
        values = scale.float()
        values[5, 1] = value
        return values.to(scale.dtype)

    change(tiny_copy, f"{EXPERT}weight_scale", spoil)
    if answer is None:
        take_over(tiny_copy, tmp_path / "out")
        written = tensors_in(tmp_path / "out")
        decoded = decode_checkpoint(written, torch.float32)[f"{EXPERT}weight"]
        assert not decoded[5, 16:32].any()
        return
    with pytest.raises(BadInputError, match=f"{EXPERT}weight_scale holds a scale that is {answer}"):
        take_over(tiny_copy, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["weight_scale_2", "input_scale"])
def test_the_other_scales_of_nvfp4_are_not_zero(
    suffix: str, tiny_copy: Path, tmp_path: Path
) -> None:
    both(encoded(experts, nvfp4_inputs), modelopt("NVFP4"))(tiny_copy)
    change(tiny_copy, EXPERT + suffix, torch.zeros_like)
    with pytest.raises(BadInputError, match=f"{EXPERT}{suffix} holds a scale that is no positive"):
        take_over(tiny_copy, tmp_path / "out")


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_an_fp8_weight_that_is_no_number(code: int, tiny_copy: Path, tmp_path: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)

    def spoil(weight: Tensor) -> Tensor:
        weight.view(torch.uint8)[7, 9] = code
        return weight

    change(tiny_copy, f"{EXPERT}weight", spoil)
    with pytest.raises(BadInputError, match=f"{EXPERT}weight holds NaN"):
        take_over(tiny_copy, tmp_path / "out")


def test_a_packed_matrix_of_another_shape(tiny_copy: Path, tmp_path: Path) -> None:
    both(encoded(experts, packed), llm_compressor())(tiny_copy)
    change(tiny_copy, f"{EXPERT}weight_shape", lambda shape: shape.flip(0))
    with pytest.raises(BadInputError, match=r"weight_shape is \[128, 192\], but the matrix"):
        take_over(tiny_copy, tmp_path / "out")


def test_what_is_taken_over_already_stays(tiny_copy: Path, tmp_path: Path) -> None:
    both(encoded(experts, packed), llm_compressor(), shards(3))(tiny_copy)
    state, out = tmp_path / "state", tmp_path / "out"
    state.mkdir()
    last = sorted(tiny_copy.glob("*.safetensors"))[-1]
    whole = last.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    name, row = list(json.loads(whole[8 : 8 + length]).items())[-1]
    start = 8 + length + row["data_offsets"][0]
    last.write_bytes(whole[:start] + b"\xff\xff\xff\x7f"[-2:] * (len(whole[start:]) // 2))
    with pytest.raises(BadInputError, match=name.rpartition(".")[0]):
        take_over(tiny_copy, out, state)
    last.write_bytes(whole)
    assert take_over(tiny_copy, out, state).kept_shards == 2
    assert not Checkpoint.open(out).differences


def in_bf16(encode: Encode) -> Encode:
    """As `encode`, with scales that BF16 holds exactly, as some producers round them."""

    def rounded(weight: Tensor) -> Parts:
        return {
            n: t.bfloat16().to(t.dtype) if "scale" in n else t for n, t in encode(weight).items()
        }

    return rounded


@pytest.mark.parametrize(
    ("encode", "declares"),
    [(int4, modelopt("W4A16_AWQ", group_size=64)), (int8_rows, modelopt("W8A16"))],
    ids=["int4", "int8"],
)
def test_integers_for_vllm_are_the_same_integers(
    encode: Encode, declares: Maker, tiny_copy: Path, tmp_path: Path
) -> None:
    both(encoded(experts, in_bf16(encode)), declares)(tiny_copy)
    before = decode_checkpoint(tensors_in(tiny_copy), torch.float32)
    out = tmp_path / "out"
    out.mkdir()
    summary = run(takeover(Checkpoint.open(tiny_copy), COMPRESSED), out)
    after = tensors_in(out)
    assert summary.layout == "compressed-tensors"
    assert summary.written_bytes == sum(t.numel() * t.element_size() for t in after.values())
    decoded = decode_checkpoint(after, torch.float32)
    assert decoded.keys() == before.keys()
    assert all(torch.equal(decoded[name], before[name]) for name in before)
    assert after[f"{EXPERT}weight_scale"].dtype is torch.bfloat16
    opened = Checkpoint.open(out)
    assert opened.quantization is not None
    assert (opened.quantization.layout, opened.quantization.agrees) == ("compressed-tensors", True)
    configuration = json.loads((out / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig(**configuration).config_groups.values()
    state = {s: after[EXPERT + s] for s in ("weight_packed", "weight_scale", "weight_shape")}
    theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    assert theirs is not None
    assert torch.equal(theirs.bfloat16(), decoded[f"{EXPERT}weight"].bfloat16())


def test_scales_that_the_layout_cannot_hold_are_refused(tiny_copy: Path, tmp_path: Path) -> None:
    both(encoded(experts, int4), modelopt("W4A16_AWQ", group_size=64))(tiny_copy)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        RefusedError, match=r"rule: layout.*What works instead: an engine that reads"
    ):
        run(takeover(Checkpoint.open(tiny_copy), COMPRESSED), out)


def test_a_checkpoint_in_the_layout_of_vllm_stays_the_file_it_is(
    tiny_copy: Path, tmp_path: Path
) -> None:
    both(encoded(experts, packed), llm_compressor())(tiny_copy)
    out = tmp_path / "out"
    out.mkdir()
    run(takeover(Checkpoint.open(tiny_copy), COMPRESSED), out)
    assert (out / "model.safetensors").samefile(tiny_copy / "model.safetensors")
