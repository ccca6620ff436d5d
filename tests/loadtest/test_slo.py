from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest import Slo, slo

LIMITS = st.decimals(min_value="0.001", max_value="1000000", places=3).map(float)
SLOS = st.one_of(
    st.builds(Slo, st.sampled_from(slo.LATENCIES), st.sampled_from(slo.STATISTICS), LIMITS),
    st.builds(Slo, st.just("errors"), st.none(), LIMITS),
    st.builds(Slo, st.sampled_from(("output_tokens_per_s", "requests_per_s")), st.none(), LIMITS),
)


@given(SLOS)
def test_canonical_text_reads_back(objective: Slo) -> None:
    assert slo.parse(str(objective)) == objective


@given(st.text(max_size=30))
def test_any_text_is_an_objective_or_a_usage_error_with_an_example(text: str) -> None:
    try:
        objective = slo.parse(text)
    except UsageError:
        with pytest.raises(UsageError, match="ttft_p99<500ms"):
            slo.parse(text)
    else:
        assert slo.parse(str(objective)) == objective


@given(SLOS, LIMITS)
def test_an_objective_holds_on_one_side_of_its_limit_only(objective: Slo, by: float) -> None:
    outcomes = {
        objective.holds(objective.limit - by),
        objective.holds(objective.limit + by),
    }
    assert outcomes == {True, False}
    assert not objective.holds(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft_p99<500ms", Slo("ttft", "p99", 500.0)),
        (" itl_p50 < 0.05 s ", Slo("itl", "p50", 50.0)),
        ("e2e_p99.9<2s", Slo("e2e", "p99.9", 2000.0)),
        ("tpot_mean<9ms", Slo("tpot", "mean", 9.0)),
        ("errors<1%", Slo("errors", None, 1.0)),
        ("output_tokens_per_s>100", Slo("output_tokens_per_s", None, 100.0)),
    ],
)
def test_forms(text: str, expected: Slo) -> None:
    assert slo.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "form"),
        ("ttft_p99<=500ms", "form"),
        ("ttft_p99<-5ms", "form"),
        ("ttft_p99<500", "unit"),
        ("ttft_p99<500us", "unit"),
        ("ttft_p93<500ms", "unknown metric 'ttft_p93'"),
        ("ttft<500ms", "unknown metric 'ttft'"),
        ("ttft_p99>500ms", "lower limit"),
        ("errors<1", "percentage"),
        ("errors<0%", "never"),
        ("output_tokens_per_s<100", "upper limit"),
        ("output_tokens_per_s>100ms", "unit 'ms'"),
    ],
)
def test_wrong_forms_say_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        slo.parse(text)


def test_objectives_are_separated_by_commas() -> None:
    assert slo.parse_all("ttft_p99<500ms,itl_p95<40ms") == (
        Slo("ttft", "p99", 500.0), Slo("itl", "p95", 40.0),
    )  # fmt: skip
    with pytest.raises(UsageError, match="form"):
        slo.parse_all("ttft_p99<500ms,")
