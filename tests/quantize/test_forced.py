"""Golden outputs made layer by layer: as the whole model's, and held to the source."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.model.architecture import Role
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize import forced, golden_texts
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.forced import ForcedRun, Source
from nemotron_deploy.quantize.layouts import LAYOUTS
from nemotron_deploy.quantize.quantized_reader import QuantizedReader
from nemotron_deploy.quantize.roundings import Served, to_nvfp4
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime import formats
from nemotron_deploy.runtime.executors.loading import load_model
from nemotron_deploy.runtime.executors.reference import score
from nemotron_deploy.runtime.golden import Entry, Forced, bounds_from, compare, recorded_positions
from nemotron_deploy.tests.model.bent import both
from nemotron_deploy.tests.model.quantized_cases import encoded, experts, modelopt, nvfp4

Tensors = dict[str, Any]

LAYER = "backbone.layers.4.mixer."
"""A layer of experts."""


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return Checkpoint.open(TINY)


@pytest.fixture(scope="module")
def cases() -> list[Forced]:
    """Some of the texts: what is tested here does not depend on how many there are."""
    return [case for _, case in golden_texts.cases(TINY)[:4]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: Checkpoint) -> Callable[..., Path]:
    """Gives `tiny` in a format and layout."""

    def make(key: str, layout: str = "modelopt", smooth: bool = False) -> Path:
        out = tmp_path_factory.mktemp(key)
        recipe = CONSERVATIVE[key]
        measured = None
        if smooth or recipe.calibrates:
            measured = calibrate(source, recipe, smooth=smooth)
        quantize(
            source,
            recipe,
            out,
            layout=LAYOUTS[layout],
            activation_amax=measured.amax if measured and recipe.calibrates else None,
            folding=measured.folding if measured and smooth else None,
        )
        return out

    return make


def in_chunks(model: Any) -> Any:
    """`model` with the chunks of Mamba's scan that `forced` has: others round otherwise."""
    for module in model.modules():
        if hasattr(module, "chunk_size"):
            module.chunk_size = forced.SCAN_CHUNK
    return model


def entries(cases: list[Forced], run: ForcedRun) -> list[Entry]:
    return [
        Entry("", case, recorded_positions(exact, None))
        for case, exact in zip(cases, run.exact, strict=True)
    ]


def test_texts_are_enough() -> None:
    texts = golden_texts.cases(TINY)
    assert len(texts) == golden_texts.PROMPTS >= 8
    assert {len(case.forced) for _, case in texts} == {32}
    assert all(len(case.prompt) >= 32 for _, case in texts)
    assert len({text for text, _ in texts}) == len(texts)


@pytest.mark.parametrize(
    ("key", "layout", "smooth"),
    [
        ("bf16", "modelopt", False),
        ("fp8", "modelopt", False),
        ("nvfp4", "modelopt", False),
        ("int4", "modelopt", True),
        ("int4", "compressed-tensors", False),
    ],
)
def test_positions_are_those_of_the_whole_model(
    made: Callable[..., Path],
    source: Checkpoint,
    cases: list[Forced],
    key: str,
    layout: str,
    smooth: bool,
) -> None:
    out = made(key, layout, smooth)
    run = forced.run(Checkpoint.open(out), cases, Source(source, CONSERVATIVE[key]))
    whole, _ = load_model(out, "float32")
    scored = [score(in_chunks(whole), case) for case in cases]
    for ours, theirs in zip(run.exact, scored, strict=True):
        for position, other in zip(ours, theirs, strict=True):
            assert position.keys() == other.keys()
            assert list(position.values()) == pytest.approx(list(other.values()), abs=1e-4)
    rounded, _ = load_model(out, "bfloat16")
    bounds = bounds_from(compare(entries(cases, run), run.healthy))
    healthy = compare(entries(cases, run), [score(rounded, case) for case in cases])
    assert not healthy.faults(bounds)
    assert (run.scaled is None) == (key == "bf16")
    assert run.source is not None
    assert run.source.agreement > 0.9
    assert run.source.divergence < 0.02
    if layout == "modelopt" and not smooth:  # plain rounding to the byte
        assert run.source.divergence == pytest.approx(run.source.rounding, rel=1e-3, abs=1e-9)


def test_scaled_is_what_larger_scales_do(int4_tiny: Path, cases: list[Forced]) -> None:
    run = forced.run(Checkpoint.open(int4_tiny), cases)
    assert run.source is None

    def scales_off(tensors: Tensors) -> Tensors:
        return {n: t * 1.02 if n.endswith(".weight_scale") else t for n, t in tensors.items()}

    whole, _ = load_model(int4_tiny, "float32", scales_off)
    assert run.scaled is not None
    for ours, case in zip(run.scaled, cases, strict=True):
        for position, other in zip(ours, score(in_chunks(whole), case), strict=True):
            assert list(position.values()) == pytest.approx(list(other.values()), abs=1e-4)


def test_bounds_of_fp8_cover_rounded_activations(
    made: Callable[..., Path], cases: list[Forced]
) -> None:
    """An engine rounds FP8's activations, the reference executor does not: both are healthy."""
    out = made("fp8")
    run = forced.run(Checkpoint.open(out), cases)
    weights, _ = load_model(out, "bfloat16")
    alone = compare(entries(cases, run), [score(weights, case) for case in cases])
    assert compare(entries(cases, run), run.healthy).divergence > 2 * alone.divergence


def stepwise(
    model: Any, case: Forced, state: torch.dtype | None = None, fp8_kv: bool = False
) -> list[dict[int, float]]:
    """The scores of a server that keeps Mamba states in `state`, and keys and values in FP8: the
    prompt at once, then token after token."""
    from transformers import DynamicCache

    def rounded(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(torch.float8_e4m3fn).to(output.dtype)

    hooks = [
        module.register_forward_hook(rounded)
        for name, module in model.named_modules()
        if fp8_kv and name.endswith((".k_proj", ".v_proj"))
    ]
    cache, fed, scores = DynamicCache(config=model.config), case.prompt, []
    for token in case.forced:
        with torch.inference_mode():
            logits = model(torch.tensor([fed]), past_key_values=cache, use_cache=True).logits
            for layer in cache.layers if state else ():
                for held in getattr(layer, "recurrent_states", {}).values():
                    if held is not None:
                        held.copy_(held.to(state))
        top = logits[0, -1].float().log_softmax(-1).topk(20)
        scores.append(dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
        fed = (token,)
    for hook in hooks:
        hook.remove()
    return scores


@pytest.fixture(scope="module")
def conceded(int4_tiny: Path, cases: list[Forced]) -> dict[str, ForcedRun]:
    """Runs of INT4 for servers that round nothing more, and for those of a plan's concessions."""
    checkpoint = Checkpoint.open(int4_tiny)
    return {
        "nothing": forced.run(checkpoint, cases),
        "state": forced.run(checkpoint, cases, served=Served(state="BF16")),
        "kv": forced.run(checkpoint, cases, served=Served(fp8_kv=True)),
        "both": forced.run(checkpoint, cases, served=Served(fp8_kv=True, state="BF16")),
    }


def test_what_a_server_concedes_is_in_its_bounds_alone(conceded: dict[str, ForcedRun]) -> None:
    plain = conceded["nothing"]
    for run in conceded.values():
        assert run.exact == plain.exact
        assert run.scaled == plain.scaled
    healthy = [run.healthy for run in conceded.values()]
    assert all(healthy[a] != healthy[b] for a in range(4) for b in range(a))


@pytest.mark.parametrize(
    ("which", "state", "fp8_kv"),
    [("state", torch.bfloat16, False), ("kv", None, True), ("both", torch.bfloat16, True)],
)
def test_a_server_that_rounds_more_is_healthy(
    conceded: dict[str, ForcedRun],
    int4_tiny: Path,
    cases: list[Forced],
    which: str,
    state: torch.dtype | None,
    fp8_kv: bool,
) -> None:
    run = conceded[which]
    bounds = bounds_from(compare(entries(cases, run), run.healthy))
    model, _ = load_model(int4_tiny, "bfloat16")
    seen = [stepwise(model, case, state, fp8_kv) for case in cases]
    found = compare(entries(cases, run), seen)
    assert not found.faults(bounds)


@pytest.mark.parametrize("which", ["state", "kv", "both"])
@pytest.mark.parametrize("fault", ["experts exchanged", "nibbles of one matrix exchanged",
                                   "one projection negated"])  # fmt: skip
def test_faults_are_beyond_the_bounds_of_concessions(
    conceded: dict[str, ForcedRun], int4_tiny: Path, tmp_path: Path, cases: list[Forced],
    which: str, fault: str,
) -> None:  # fmt: skip
    change, _ = FAULTS[fault]
    broken = changed(int4_tiny, tmp_path / "broken", change)
    run = conceded[which]
    bounds = bounds_from(compare(entries(cases, run), run.healthy))
    model, _ = load_model(broken.path, "bfloat16")
    state = torch.bfloat16 if which != "kv" else None
    seen = [stepwise(model, case, state, which != "state") for case in cases]
    assert compare(entries(cases, run), seen).faults(bounds)


def test_stored_scales_of_keys_and_values_are_used_for_fp8(
    made: Callable[..., Path], cases: list[Forced]
) -> None:
    checkpoint = Checkpoint.open(made("fp8"))
    run = forced.run(checkpoint, cases)
    assert forced.run(checkpoint, cases, served=Served(fp8_kv=True)) == run


def test_nvfp4_inputs_are_rounded(tiny_copy: Path, cases: list[Forced]) -> None:
    both(encoded(experts, nvfp4), modelopt("W4A16_NVFP4"))(tiny_copy)
    weights_only = forced.run(Checkpoint.open(tiny_copy), cases)
    path = tiny_copy / "model.safetensors"
    tensors = load_file(path)
    scale = torch.tensor(0.02)
    owners = {n.rpartition(".")[0] for n in tensors if n.endswith("weight_scale_2")}
    save_file(tensors | {f"{owner}.input_scale": scale.clone() for owner in owners}, path)
    run = forced.run(Checkpoint.open(tiny_copy), cases)
    assert run.exact == weights_only.exact
    rounded = compare(entries(cases, run), run.healthy).divergence
    assert rounded > 2 * compare(entries(cases, run), weights_only.healthy).divergence


def test_nvfp4_rounds_as_the_weights_of_that_format_do() -> None:
    values = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    packed, scale, scale_2 = formats.encode_nvfp4(values)
    expected = formats.decode_nvfp4(packed, scale, scale_2)
    assert torch.equal(to_nvfp4(float(scale_2))(values), expected)
    assert not to_nvfp4(float(scale_2))(torch.zeros(2, 32)).any()


def changed(checkpoint: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Checkpoint:
    """A copy of the checkpoint whose tensors were changed."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | change(tensors), folder / "model.safetensors")
    return Checkpoint.open(folder)


def shuffled_norms(tensors: Tensors) -> Tensors:
    names = [n for n in tensors if re.fullmatch(r"backbone\.layers\.\d+\.norm\.weight", n)]
    return {n: tensors[o] for n, o in zip(names, names[1:] + names[:1], strict=True)}


def negated(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: -tensors[name] for name in names}


def exchanged_experts(tensors: Tensors) -> Tensors:
    pairs = ((f"{LAYER}experts.2.", f"{LAYER}experts.9."),)
    both = [*pairs, *((b, a) for a, b in pairs)]
    return {n: tensors[n.replace(a, b)] for a, b in both for n in tensors if n.startswith(a)}


def exchanged_nibbles(tensors: Tensors) -> Tensors:
    name = f"{LAYER}experts.3.up_proj.weight"
    return {name: (tensors[name] << 4) | (tensors[name] >> 4)}


FAULTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "norms shuffled and two projections negated": (
        lambda t: (
            shuffled_norms(t)
            | negated("backbone.layers.0.mixer.out_proj.weight", f"{LAYER}gate.weight")(t)
        ),
        r"layer 0 \(Mamba\)",
    ),
    "one projection negated": (
        negated("backbone.layers.3.mixer.o_proj.weight"),
        r"layer 3 \(attention\)",
    ),
    "experts exchanged": (exchanged_experts, r"layer 4 \(experts\)"),
    "nibbles of one matrix exchanged": (exchanged_nibbles, r"layer 4 \(experts\)"),
    "scales of one matrix doubled": (
        lambda t: {
            (name := f"{LAYER}shared_experts.down_proj.weight_scale"): t[name] * 2,
        },
        r"layer 4 \(experts\)",
    ),
    "a NaN": (
        lambda t: {(name := f"{LAYER}gate.weight"): t[name] * torch.nan},
        r"layer 4 \(experts\)",
    ),
    "rows of the embedding rolled": (
        lambda t: {(name := "backbone.embeddings.weight"): t[name].roll(1, 0)},
        "the embedding",
    ),
    "the last norm of another model": (
        lambda t: {(name := "backbone.norm_f.weight"): t[name] * 1.5},
        "the head",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_source_does_not_say_is_refused(
    int4_tiny: Path, tmp_path: Path, source: Checkpoint, cases: list[Forced], fault: str
) -> None:
    change, part = FAULTS[fault]
    broken = changed(int4_tiny, tmp_path / "broken", change)
    expected = rf"broken: this quantized checkpoint is not what its source says: {part}"
    with pytest.raises(CheckFailedError, match=expected):
        forced.run(broken, cases, Source(source, CONSERVATIVE["int4"]))


def test_a_tensor_that_is_missing(int4_tiny: Path, tmp_path: Path, cases: list[Forced]) -> None:
    shutil.copytree(int4_tiny, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    name = f"{LAYER}experts.3.up_proj.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(BadInputError, match=f"tensor {name} is missing"):
        forced.run(Checkpoint.open(tmp_path / "broken"), cases)


class StoppedError(Exception):
    pass


def test_an_interrupted_run_goes_on(
    int4_tiny: Path, tmp_path: Path, source: Checkpoint, cases: list[Forced],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    quantized, origin = Checkpoint.open(int4_tiny), Source(source, CONSERVATIVE["int4"])
    at_once = forced.run(quantized, cases, origin)

    def stop(done: int) -> None:
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        forced.run(quantized, cases, origin, work=tmp_path, on_layer=stop)
    layers: list[int] = []
    read: list[str] = []
    real = QuantizedReader.__call__

    def noted(self: QuantizedReader, name: str) -> torch.Tensor:
        read.append(name)
        return real(self, name)

    monkeypatch.setattr(QuantizedReader, "__call__", noted)
    resumed = forced.run(quantized, cases, origin, work=tmp_path, on_layer=layers.append)
    assert layers == [5, 6, 7, 8][: len(source.model.pattern) - 4]
    assert not any(name.startswith(("backbone.layers.0.", "backbone.layers.3.")) for name in read)
    assert resumed == at_once


def test_memory_grows_with_the_model(source: Checkpoint) -> None:
    layer = sum(
        group.parameters * 4
        for group in source.model.tensors()
        if group.template.startswith(LAYER) and group.role is not Role.NORM
    )
    assert forced.bytes_needed(source.model) > layer
