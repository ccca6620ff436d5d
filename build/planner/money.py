"""What tokens cost on a GPU of one's own, and from which load on that is less than an API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from ...model import catalog
from ...model.spec import Plan, Point, Workload

MAX_TPOT_MS: Final = 50.0
"""Time per token that a reader is not kept waiting by (20 tokens/s), where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Cost:
    """USD. `concurrency` is the largest at which a sequence's tokens are at most `max_tpot_ms`
    apart on average, others' prompts among them.

    Of the time of a deployment's GPUs, prompts go to input tokens and decoding to output tokens.
    `break_even_requests_per_hour` is the steady load from which on the API would cost more, None
    where none is known for the model; it can lie above `capacity_requests_per_hour`.
    """

    price_per_gpu_hour: float
    price_source: str
    max_tpot_ms: float
    concurrency: int
    output_tokens_per_s_per_gpu: float
    input_per_million: float
    output_per_million: float
    capacity_requests_per_hour: float
    api_input_per_million: float | None
    api_output_per_million: float | None
    api_source: str
    break_even_requests_per_hour: float | None

    @property
    def break_even_share(self) -> float | None:
        """Of the capacity; above 1 the API is cheaper at any load."""
        if self.break_even_requests_per_hour is None:
            return None
        return self.break_even_requests_per_hour / self.capacity_requests_per_hour


def at_objective(plan: Plan, max_tpot_ms: float) -> Point | None:
    """The point of the plan's curve with the most sequences that keeps to `max_tpot_ms`."""
    if plan.estimate is None:
        return None
    keeping = [point for point in plan.estimate.curve if point.itl_ms <= max_tpot_ms]
    return keeping[-1] if keeping else None


def cost(
    plan: Plan, workload: Workload, price: float | None = None, max_tpot_ms: float = MAX_TPOT_MS
) -> Cost | None:
    """What `plan` costs at `price` per GPU hour or at a dated list price; None where there is no
    price, no estimate, or no concurrency that keeps to the objective."""
    point, source = at_objective(plan, max_tpot_ms), "--price"
    if price is None:
        price, source = _list_price(plan.gpu)
    if point is None or price is None:
        return None
    per_second = price * plan.gpus / 3600
    token_s = 1 / point.output_tokens_per_s
    input_s = token_s * point.prompt_share * workload.osl / workload.isl
    api, api_source = _api(plan.model)
    break_even = None
    if api:
        request = (workload.isl * api["input"] + workload.osl * api["output"]) / 1e6
        break_even = price * plan.gpus / request
    return Cost(
        price_per_gpu_hour=price,
        price_source=source,
        max_tpot_ms=max_tpot_ms,
        concurrency=point.concurrency,
        output_tokens_per_s_per_gpu=point.output_tokens_per_s / plan.gpus,
        input_per_million=per_second * input_s * 1e6,
        output_per_million=per_second * token_s * (1 - point.prompt_share) * 1e6,
        capacity_requests_per_hour=3600 * point.output_tokens_per_s / workload.osl,
        api_input_per_million=api["input"] if api else None,
        api_output_per_million=api["output"] if api else None,
        api_source=api_source,
        break_even_requests_per_hour=break_even,
    )


@cache
def _prices() -> dict[str, Any]:
    prices: dict[str, Any] = json.loads(catalog.PRICES.read_text(encoding="utf-8"))
    return prices


def _list_price(gpu: str) -> tuple[float | None, str]:
    price = _prices()["gpu_hour"].get(gpu)
    if price is None:
        return None, ""
    source = f"one host's list of {price['date']}"
    if "seen" in price:
        source += f"; hosts asked {price['low']:.2f} to {price['high']:.2f} in {price['seen']}"
    return price["usd"], source


def _api(model: str) -> tuple[dict[str, float] | None, str]:
    price = _prices()["api"].get(model)
    return (price, price["source"]) if price else (None, "")
