"""Estimates against what others measured, and what they must obey whatever the figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.build import matrix, money
from nemotron_deploy.build.plan import plan
from nemotron_deploy.build.speed import calibrated, expert_layer_s
from nemotron_deploy.errors import UsageError
from nemotron_deploy.models import gpu, gpus
from nemotron_deploy.recipe import RECIPES
from nemotron_deploy.spec import QUANTS, Workload
from nemotron_deploy.tests.build.nano import nano, planned

TOKENS = (1, 8, 32, 128, 256, 1024, 8192)
MEASURED_MS = {
    "bf16": (0.067, 0.278, 0.686, 0.838, 0.903, 1.108, 2.573),
    "fp8": (0.052, 0.163, 0.363, 0.445, 0.478, 0.582, 1.515),
}
"""One MoE layer of Nano on an H100, TensorRT-LLM 1.3.0rc10 (aiconfigurator's measured tables)."""


@pytest.mark.parametrize("quant", MEASURED_MS)
@pytest.mark.parametrize("place", range(len(TOKENS)))
def test_the_measured_expert_layer(quant: str, place: int) -> None:
    seconds = expert_layer_s(nano(), RECIPES[quant], gpu("h100"), TOKENS[place])
    assert seconds * 1e3 == pytest.approx(MEASURED_MS[quant][place], rel=0.15)


def test_a_published_throughput_with_a_long_prompt() -> None:
    """598 output tokens/s, BF16, one H100, vLLM offline, 32768 in and 1024 out (Model-Optimizer's
    tutorials). Ours is 16 % higher: docs/planner.md says so."""
    found = planned("h100", "bf16", isl=32768, osl=1024, context=33792, concurrency=28).estimate
    assert found is not None
    assert found.output_tokens_per_s == pytest.approx(598, rel=0.2)


@given(
    st.sampled_from(["h100", "h200", "a100", "l40s"]),
    st.sampled_from(["bf16", "fp8", "int4"]),
    st.integers(1, 100_000),
    st.integers(1, 4096),
)
def test_more_at_once_is_slower_each_and_faster_together(
    key: str, quant: str, isl: int, osl: int
) -> None:
    found = planned(key, quant, isl=isl, osl=osl).estimate
    if found is None:
        return
    for before, after in zip(found.curve, found.curve[1:], strict=False):
        assert after.concurrency > before.concurrency
        assert after.tpot_ms > before.tpot_ms
        assert after.decode_tokens_per_s > before.decode_tokens_per_s
        assert after.ttft_ms == before.ttft_ms


def test_a_load_test_scales_the_estimate_to_itself() -> None:
    base = planned("h100", "int4").estimate
    assert base is not None
    measured = [(p.concurrency, p.tpot_ms * 1.5, p.ttft_ms * 2) for p in base.curve[:3]]
    reached = calibrated(measured, base)
    again = plan(nano(), gpu("h100"), QUANTS["int4"], Workload(), reached).estimate
    assert again is not None
    assert again.tpot_ms == pytest.approx(base.tpot_ms * 1.5)
    assert again.ttft_ms == pytest.approx(base.ttft_ms * 2)
    assert "decoding 1.50 times, prefill 2.00 times as long" in again.assumptions[-1]
    with pytest.raises(ValueError, match="no level of the load test"):
        calibrated([(3, 1.0, 1.0)], base)
    with pytest.raises(ValueError, match="above 0"):
        calibrated([(1, 0.0, 1.0)], base)


def test_money_is_time_times_price() -> None:
    """All of a GPU hour goes to the tokens it serves, inputs and outputs together."""
    workload, price = Workload(), 2.0
    found = money.cost(planned("h100", "fp8"), workload, price)
    assert found is not None
    request = workload.isl * found.input_per_million + workload.osl * found.output_per_million
    assert found.capacity_requests_per_hour * request / 1e6 == pytest.approx(price)
    assert found.break_even_requests_per_hour == pytest.approx(
        price / (workload.isl * 0.05e-6 + workload.osl * 0.20e-6)
    )
    assert found.price_source == "--price"


def test_the_objective_decides_the_concurrency() -> None:
    result = planned("h100", "fp8")
    slow, fast = money.at_objective(result, 50), money.at_objective(result, 5)
    assert slow is not None
    assert fast is not None
    assert fast.concurrency < slow.concurrency
    assert fast.tpot_ms <= 5
    assert money.at_objective(result, 0.1) is None
    assert money.cost(result, Workload(), max_tpot_ms=0.1) is None
    assert money.cost(planned("a10", "int4"), Workload()) is None


def test_the_matrix_has_every_pair_and_a_best() -> None:
    found = matrix.cells(nano(), Workload())
    assert [(c.plan.gpu, c.plan.quant["requested"]) for c in found] == [
        (key, quant) for key in gpus() for quant in QUANTS
    ]
    for aim in matrix.OPTIMIZE:
        chosen = matrix.best(found, aim, Workload())
        assert chosen is not None
        assert chosen.eligible
        assert not chosen.plan.plugin, "our kernels have not run on a GPU"
        assert "have not run on such a GPU yet: int4 on h100" in matrix.why(chosen, found, aim)
    fastest = matrix.best(found, "latency", Workload())
    assert fastest is not None
    assert fastest.tpot_alone_ms == min(c.tpot_alone_ms for c in found if c.eligible)
    with pytest.raises(UsageError, match="latency, throughput, cost"):
        matrix.best(found, "beauty", Workload())
