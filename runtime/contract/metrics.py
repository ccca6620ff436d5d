"""The metrics that the served model adds to Triton's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the served model: its Prometheus name and type (`counter`, `gauge`, `histogram`).

    Every series also has the label `model`. `label` is another one, with all its `values` and what
    each of them means. `buckets` are the upper bounds of a histogram, the last of which is +Inf.
    """

    name: str
    type: str
    help: str
    label: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


MODEL_LABEL: Final = "model"
"""The label that every series has: the model's name."""

REQUESTS: Final = Metric(
    "nemo_deploy_requests_total",
    "counter",
    "Requests that ended, by outcome.",
    "outcome",
    {
        "stop": "answered to the end, or to a stop text",
        "length": "answered up to its limit of tokens",
        "tool_calls": "answered with tool calls",
        "cancelled": "cancelled, or its client disconnected",
        "deadline": "ended at its deadline",
        "refused": "refused because of what it contains",
        "overloaded": "refused because the server had no room, or was shutting down",
        "error": "ended by an error of the server",
    },
)
PROMPT_TOKENS: Final = Metric(
    "nemo_deploy_prompt_tokens_total", "counter", "Tokens of prompts that were accepted."
)
OUTPUT_TOKENS: Final = Metric(
    "nemo_deploy_output_tokens_total", "counter", "Tokens of answers, as they are generated."
)
RUNNING: Final = Metric(
    "nemo_deploy_sequences_running", "gauge", "Sequences that the executor generates for."
)
WAITING: Final = Metric(
    "nemo_deploy_requests_waiting", "gauge", "Accepted requests that do not run yet."
)
QUEUE_TIME: Final = Metric(
    "nemo_deploy_queue_seconds",
    "histogram",
    "Time from a request's arrival until the executor first schedules it.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, math.inf),
)
TIME_TO_FIRST_TOKEN: Final = Metric(
    "nemo_deploy_time_to_first_token_seconds",
    "histogram",
    "Time from a request's arrival to the first token of its answer.",
    buckets=(
        0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, math.inf,
    ),
)  # fmt: skip
INTER_TOKEN_TIME: Final = Metric(
    "nemo_deploy_inter_token_seconds",
    "histogram",
    "Time between two steps of an answer. A step is one token, or several with speculative "
    "decoding.",
    buckets=(
        0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1,
        2.5, 5, 10, math.inf,
    ),
)  # fmt: skip
KV_CACHE_OCCUPANCY: Final = Metric(
    "nemo_deploy_kv_cache_occupancy_ratio",
    "gauge",
    "Share of the KV cache that is in use, 0 to 1; absent where the executor does not know it.",
)
MAMBA_STATE_OCCUPANCY: Final = Metric(
    "nemo_deploy_mamba_state_occupancy_ratio",
    "gauge",
    "Share of the Mamba states that are in use, 0 to 1; absent where the executor does not know "
    "it. A sequence has one state.",
)

METRICS: Final = (
    REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS, RUNNING, WAITING, QUEUE_TIME, TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_TIME, KV_CACHE_OCCUPANCY, MAMBA_STATE_OCCUPANCY,
)  # fmt: skip
"""Metrics that the served model adds to Triton's own."""


METRICS_FLAGS: Final = ("--metrics-config=histogram_latencies=true",)
"""Flags of `tritonserver` that switch its own `nv_inference_first_response_histogram_ms` on. Triton
2.51, the one for local use, takes the flag and has no such histogram."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series of a metric: its name, and a label with its value, if it has one."""

    name: str
    label: str = ""
    value: str = ""


def series(metric: Metric) -> tuple[Series, ...]:
    """Every series of a metric. Those of a histogram are its buckets, the sum and the count."""
    if metric.type == "histogram":
        bounds = ("+Inf" if bound == math.inf else f"{bound:g}" for bound in metric.buckets)
        return (
            *(Series(f"{metric.name}_bucket", "le", bound) for bound in bounds),
            Series(f"{metric.name}_sum"),
            Series(f"{metric.name}_count"),
        )
    return tuple(Series(metric.name, metric.label, value) for value in metric.values) or (
        Series(metric.name),
    )
