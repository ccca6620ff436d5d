"""Money, and what to choose."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nemotron_deploy.build.planner import matrix, money
from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.model.catalog import gpus
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.build.nano import nano, planned


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


def test_list_prices_say_whose_and_when() -> None:
    found = money.cost(planned("h100", "fp8"), Workload())
    assert found is not None
    assert found.price_per_gpu_hour == 2.69
    assert found.price_source.startswith("one host's list of March 2026; hosts asked 1.99 to 5.00")
    assert "mid-2026" in found.api_source
    assert money.cost(planned("a100-40gb", "int4"), Workload()) is None, "a range is no list price"
    assert money.cost(planned("a100-40gb", "int4"), Workload(), 1.5) is not None


def test_the_objective_decides_the_concurrency() -> None:
    result = planned("h100", "fp8")
    slow, fast = money.at_objective(result, 50), money.at_objective(result, 8)
    assert slow is not None
    assert fast is not None
    assert fast.concurrency < slow.concurrency
    assert fast.itl_ms <= 8
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
        assert not chosen.plan.engine.plugin, "our plugin has not served on a GPU"
        why = matrix.why(chosen, found, aim)
        assert "has not served on such a GPU yet: int8 on h100, int4 on h100" in why
    fastest = matrix.best(found, "latency", Workload())
    assert fastest is not None
    assert fastest.tpot_alone_ms == min(c.tpot_alone_ms or math.inf for c in found if c.eligible)
    with pytest.raises(UsageError, match="latency, throughput, cost"):
        matrix.require_aim("beauty")


def test_the_documented_break_even_is_current() -> None:
    text = (Path(__file__).parents[3] / "docs" / "planner.md").read_text(encoding="utf-8")
    fp8, bf16 = (money.cost(planned("h100", quant), Workload()) for quant in ("fp8", "bf16"))
    assert fp8 is not None
    assert bf16 is not None
    assert f"{fp8.break_even_requests_per_hour:,.0f} requests an hour on an H100" in text
    told = " ".join(text.split())
    assert f"{fp8.break_even_share:.0%} of what".replace("%", " %") in told
    assert f"{bf16.break_even_share:.0%} of it in BF16".replace("%", " %") in told
