"""Estimates against what others measured, and what they must obey whatever the figures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.engines.tensorrt_llm import hardware
from nemotron_deploy.build.planner.calibration import Measured, calibrated
from nemotron_deploy.build.planner.efficiency import DEFAULT
from nemotron_deploy.build.planner.plan import Planner
from nemotron_deploy.build.planner.routing import choices, distinct, fullest
from nemotron_deploy.build.planner.speed import Speed
from nemotron_deploy.model.catalog import gpu
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.build.nano import nano, planned
from nemotron_deploy.tests.build.planner import published

TOKENS = (1, 8, 32, 128, 256, 1024, 8192)
MEASURED_MS = {
    ("h100", "bf16"): (0.067, 0.278, 0.686, 0.838, 0.903, 1.108, 2.573),
    ("h100", "fp8"): (0.052, 0.163, 0.363, 0.445, 0.478, 0.582, 1.515),
    ("h200", "bf16"): (0.056, 0.202, 0.483, 0.586, 0.634, 0.817, 2.170),
    ("h200", "fp8"): (0.046, 0.119, 0.257, 0.314, 0.343, 0.466, 1.313),
    ("l40s", "bf16"): (0.197, 1.099, 2.796, 3.477, 3.763, 4.137, 8.122),
}
"""One MoE layer of Nano with TensorRT-LLM 1.3.0rc10 (L40S: rc20), loads by the power law 1.2
(aiconfigurator's measured tables)."""

WITHIN = {"h100": 0.08, "h200": 0.12, "l40s": 0.08}


def speed(quant: str, key: str = "h100", **size: Any) -> Speed:
    return Planner(nano(), Workload(**size)).speed(gpu(key), QUANTS[quant])


@pytest.mark.parametrize(("key", "quant"), MEASURED_MS)
@pytest.mark.parametrize("place", range(len(TOKENS)))
def test_the_measured_expert_layer(key: str, quant: str, place: int) -> None:
    seconds = speed(quant, key).expert_layer_s(TOKENS[place])
    wanted = MEASURED_MS[key, quant][place]
    assert seconds * 1e3 == pytest.approx(wanted, rel=WITHIN[key])


def measured_int4() -> dict[int, tuple[float, ...]]:
    """The table of docs/hardware.md: by tokens, INT4 us, BF16 us, times faster, byte limit us,
    times the limit."""
    text = (Path(__file__).parents[3] / "docs" / "hardware.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|((?: [\d.]+ \|){5})$", text, re.MULTILINE)
    return {
        int(tokens): tuple(float(cell) for cell in cells.split("|")[:-1]) for tokens, cells in rows
    }


def test_the_documented_hardware_run_is_the_recorded_one() -> None:
    (run,) = hardware.runs()
    table = measured_int4()
    assert {str(tokens) for tokens in table} == set(run.speedup) == set(run.over_byte_limit)
    for tokens, (_, _, faster, _, over) in table.items():
        assert run.speedup[str(tokens)] == pytest.approx(faster, abs=0.06)
        assert run.over_byte_limit[str(tokens)] == pytest.approx(over, abs=0.006)
    assert run.stored_cubins
    assert not run.served_by, "kernels alone; TensorRT-LLM was not there"


def test_our_measured_int4_expert_layer() -> None:
    """Loads without preference, and without the router, as the run was."""
    estimated = speed("int4", "h200").with_efficiency(replace(DEFAULT, skew=0.0))
    router_s = 10e-6
    for tokens, (microseconds, *_) in measured_int4().items():
        seconds = estimated.expert_layer_s(tokens) - router_s
        assert seconds * 1e6 == pytest.approx(microseconds, rel=0.25), tokens


@pytest.mark.parametrize(
    ("gpus", "tokens", "milliseconds"),
    [(2, 128, 0.423), (4, 128, 0.219), (8, 128, 0.129), (2, 8192, 1.425), (8, 8192, 0.507)],
)
def test_the_measured_expert_layer_split_by_expert(
    gpus: int, tokens: int, milliseconds: float
) -> None:
    """BF16 on H100s, the power law 1.01; the same tables."""
    seconds = speed("bf16", gpus=gpus).expert_layer_s(tokens)
    assert seconds * 1e3 == pytest.approx(milliseconds, rel=0.15)


SUPER_MS = {
    ("bf16", 1): (0.131, 0.617, 1.436, 1.729, 2.391, 5.600),
    ("bf16", 2): (0.085, 0.340, 0.749, 0.890, 1.206, 2.934),
    ("bf16", 8): (0.049, 0.132, 0.236, 0.275, 0.368, 1.042),
    ("fp8", 1): (0.089, 0.340, 0.758, 0.913, 1.255, 3.397),
    ("fp8", 4): (0.050, 0.130, 0.238, 0.266, 0.379, 1.095),
    ("fp8", 8): (0.048, 0.092, 0.146, 0.161, 0.233, 0.705),
}
"""One MoE layer of Super (latent width 1024) on H100s at 1, 8, 32, 128, 1024 and 8192 tokens, with
TensorRT-LLM 1.3.0rc23, the power law 1.01. Nothing was fitted to it."""


@pytest.mark.parametrize(("quant", "gpus"), SUPER_MS)
def test_the_measured_expert_layer_of_another_model(quant: str, gpus: int) -> None:
    planner = Planner(published.named(published.SUPER), Workload(gpus=gpus))
    found = planner.speed(gpu("h100"), QUANTS[quant])
    ours = [found.expert_layer_s(n) * 1e3 for n in (1, 8, 32, 128, 1024, 8192)]
    assert ours == pytest.approx(list(SUPER_MS[quant, gpus]), rel=0.19)


@pytest.mark.parametrize(
    ("key", "gpus", "values", "microseconds", "within"),
    [
        ("h100", 2, 8192, 2.8, 0.2),
        ("h100", 2, 2_097_152, 17.1, 0.2),
        ("h100", 2, 33_554_432, 254, 0.2),
        ("h100", 8, 33_554_432, 323, 0.4),
        ("l40s", 2, 2_097_152, 223, 0.1),
        ("l40s", 4, 8192, 16.1, 0.1),
        ("l40s", 4, 8_388_608, 5029, 0.2),
        ("l40s", 8, 33_554_432, 53_412, 0.25),
    ],
)
def test_the_measured_all_reduce(
    key: str, gpus: int, values: int, microseconds: float, within: float
) -> None:
    """BF16 values summed over GPUs (the same tables): NVLink, and PCIe where it is crowded."""
    found = speed("bf16", key, gpus=gpus)
    sums = len(nano().pattern) + 1
    each = found.all_reduce_s(values / nano().hidden_size) / sums
    assert each * 1e6 == pytest.approx(microseconds, rel=within)


@pytest.mark.parametrize("point", [*published.POINTS, *published.MISSES], ids=lambda p: p.row())
def test_published_throughput(point: published.Published) -> None:
    assert abs(point.off) <= point.within


def test_published_gaps_between_tokens() -> None:
    """Of the same runs: 59.45 ms for Nano on an H200, 51 and 24 ms for Super (vLLM's means)."""
    found = {(p.model, p.gpu): p.ours().itl_ms for p in published.POINTS if p.gpus != 8}
    assert found[published.NANO, "h200"] == pytest.approx(59.45, rel=0.1)
    assert found[published.SUPER, "a100"] == pytest.approx(51, rel=0.2)
    assert found[published.SUPER, "h100"] == pytest.approx(24, rel=0.3)


DOCUMENT = Path(__file__).parents[3] / "docs" / "planner.md"


def test_the_documented_tables_are_current() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert published.table() in text
    for (key, quant), wanted in MEASURED_MS.items():
        found = speed(quant, key)
        off = [found.expert_layer_s(n) * 1e3 / ms - 1 for n, ms in zip(TOKENS, wanted, strict=True)]
        cells = [f"{100 * share:+.0f} %".replace("+0 ", "0 ").replace("-0 ", "0 ") for share in off]
        assert f"| {key.upper()} {quant.upper()} | " + " | ".join(cells) + " |" in text


@pytest.mark.parametrize(
    ("quant", "isl", "kv_cache", "tpot_ms"),
    [
        # NVFP4 with an FP8 KV cache in vLLM; FP8 in vLLM, 47.6 tokens a second (ai-muninn.com).
        ("nvfp4", 1024, "fp8", 16.5),
        ("nvfp4", 65_536, "fp8", 17.2),
        ("nvfp4", 259_267, "fp8", 19.5),
        ("fp8", 1024, None, 1e3 / 47.6),
    ],
)
def test_one_sequence_on_a_dgx_spark(
    quant: str, isl: int, kv_cache: str | None, tpot_ms: float
) -> None:
    size = Workload(isl=isl, osl=128, kv_cache=kv_cache)
    planner = Planner(nano(), size, engine("vllm"))
    found = planner.speed(gpu("dgx-spark"), QUANTS[quant]).point(1)
    assert found.tpot_ms == pytest.approx(tpot_ms, rel=0.15)


def test_twenty_four_thousand_tokens_beside_a_peer() -> None:
    """3.3 times Qwen3-30B-A3B on one H200 at 8K in and 16K out, FP8 (technical report, which gives
    no concurrency): between the same number of sequences and each model's most."""
    size = Workload(isl=8192, osl=16384)
    nano_fp8 = speed("fp8", "h200", isl=8192, osl=16384)
    qwen = Planner(published.named("qwen3-30b-a3b"), size).speed(gpu("h200"), QUANTS["fp8"])
    theirs = qwen.point(64).output_tokens_per_s
    same, most = (nano_fp8.point(n).output_tokens_per_s / theirs for n in (64, 512))
    assert same < 3.3 < most
    assert [same, most] == pytest.approx([2.1, 5.5], rel=0.1)


@given(
    st.sampled_from(["h100", "h200", "a100", "l40s"]),
    st.sampled_from(["bf16", "fp8", "int4"]),
    st.integers(1, 100_000),
    st.integers(1, 4096),
    st.sampled_from([1, 2, 8]),
)
def test_more_at_once_is_slower_each_and_faster_together(
    key: str, quant: str, isl: int, osl: int, gpus: int
) -> None:
    found = planned(key, quant, isl=isl, osl=osl, gpus=gpus).estimate
    if found is None:
        return
    for point in found.curve:
        assert point.itl_ms >= point.tpot_ms * 0.99 or point.concurrency > 8192 * osl / (isl + osl)
        assert 0 <= point.prompt_share < 1
    for before, after in zip(found.curve, found.curve[1:], strict=False):
        assert after.concurrency > before.concurrency
        assert after.tpot_ms > before.tpot_ms
        assert after.decode_tokens_per_s > before.decode_tokens_per_s
        assert after.output_tokens_per_s >= before.output_tokens_per_s * (1 - 1e-9)
        assert after.ttft_ms == before.ttft_ms


def test_terms_of_a_step_sum_up_and_are_the_ones_that_are_named() -> None:
    found = planned("h100", "fp8").estimate
    assert found is not None
    assert list(found.terms_ms) == ["experts", "other_weights", "attention", "state", "overhead"]
    assert sum(found.terms_ms.values()) == pytest.approx(found.tpot_ms)


def test_one_sequence_alone_is_prefill_and_then_decoding() -> None:
    found = speed("bf16", isl=4096, osl=100)
    point = found.point(1)
    alone = 100 / (found.prefill_s() + 100 * point.tpot_ms / 1e3)
    assert point.output_tokens_per_s == pytest.approx(alone, rel=0.03)


def test_a_card_with_less_bandwidth_is_slower() -> None:
    sxm, pcie = speed("bf16", "h100").decode_s(8), speed("bf16", "H100 PCIe").decode_s(8)
    assert 1.3 < pcie / sxm < 3.35 / 2.0


def test_a_long_context_costs_little() -> None:
    """One stream on a DGX Spark: 16.5 ms at 1,024 tokens, 19.5 at 259,267 (NVFP4, vLLM)."""
    short = sum(speed("fp8", isl=1024, osl=1).decode_terms(1).values())
    long = sum(speed("fp8", isl=259_267, osl=1).decode_terms(1).values())
    bandwidth = gpu("h100").bandwidth_bytes_per_s / 273e9
    assert (long - short) * bandwidth == pytest.approx(3.0e-3, rel=0.35)


class TestRouting:
    @given(
        st.integers(1, 128).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
        st.floats(0, 3),
        st.integers(1, 300),
    )
    def test_distinct_experts(self, sizes: tuple[int, int], skew: float, tokens: int) -> None:
        experts, top_k = sizes
        chances = choices(experts, top_k, skew)
        assert len(chances) == experts
        assert sum(chances) == pytest.approx(top_k)
        assert max(chances) <= 1 + 1e-12
        assert list(chances) == sorted(chances, reverse=True)
        hit = distinct(experts, top_k, tokens, skew)
        assert top_k - 1e-9 <= hit <= min(experts, top_k * tokens) + 1e-9
        assert hit <= distinct(experts, top_k, tokens, 0.0) + 1e-9

    def test_without_preference_it_is_the_textbook_formula(self) -> None:
        assert distinct(128, 6, 8, 0.0) == pytest.approx(128 * (1 - (1 - 6 / 128) ** 8))

    def test_the_fullest_gpu(self) -> None:
        assert fullest(5.0, 100.0, 1) == 5.0
        assert 16.0 > fullest(8.0, 16.0, 8) > 8.0
        assert fullest(15.9, 16.0, 8) == 16.0


class TestCalibration:
    def levels(self, found: Speed, itl: float = 1.0, ttft: float = 1.0) -> list[Measured]:
        points = [found.point(n) for n in (1, 8, 64)]
        return [Measured(p.concurrency, p.itl_ms * itl, p.ttft_ms * ttft) for p in points]

    def test_a_load_test_like_the_estimate_changes_nothing(self) -> None:
        found = speed("int4")
        efficiency = calibrated(self.levels(found), found)
        assert [efficiency.work, efficiency.fixed] == pytest.approx([1, 1])
        assert efficiency.prefill == pytest.approx(DEFAULT.prefill)

    def test_one_level_scales_all_alike(self) -> None:
        found = speed("int4")
        level = replace(self.levels(found, ttft=3.0)[0], itl_ms=found.point(1).tpot_ms * 2)
        fitted = found.with_efficiency(calibrated([level], found))
        assert fitted.point(1).itl_ms == pytest.approx(level.itl_ms, rel=1e-3)
        assert fitted.point(1).ttft_ms == pytest.approx(level.ttft_ms)
        assert fitted.efficiency.work == pytest.approx(fitted.efficiency.fixed, rel=1e-3)
        assert fitted.efficiency.off < 1e-3

    def test_levels_that_no_scale_meets_are_told(self) -> None:
        found = speed("int4")
        level = self.levels(found)[0]
        worse = replace(level, concurrency=2, itl_ms=level.itl_ms * 10)
        assert 0.3 < calibrated([level, worse], found).off < 1

    @settings(max_examples=20)
    @given(st.floats(0.5, 3), st.floats(0.5, 6), st.floats(0.5, 3))
    def test_what_was_scaled_is_found(self, work: float, fixed: float, prefill: float) -> None:
        found = speed("fp8")
        true = found.with_efficiency(
            replace(
                DEFAULT,
                work=work,
                fixed=fixed,
                prefill=DEFAULT.prefill / prefill,
                prefill_experts=DEFAULT.prefill_experts / prefill,
            )
        )
        points = [true.point(n) for n in (1, 4, 16, 64, 256)]
        measured = [Measured(p.concurrency, p.itl_ms, p.ttft_ms) for p in points]
        fitted = found.with_efficiency(calibrated(measured, found))
        for point in points:
            assert fitted.point(point.concurrency).itl_ms == pytest.approx(point.itl_ms, rel=0.02)
            assert fitted.point(point.concurrency).ttft_ms == pytest.approx(point.ttft_ms)

    @pytest.mark.parametrize(
        ("levels", "message"),
        [
            ([], "no level"),
            ([Measured(1, 0.0, 1.0)], "above 0"),
            ([Measured(1, 1.0, -1.0)], "above 0"),
            ([Measured(1, float("nan"), 1.0)], "above 0"),
        ],
    )
    def test_what_cannot_be_fitted(self, levels: list[Measured], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            calibrated(levels, speed("int4"))
