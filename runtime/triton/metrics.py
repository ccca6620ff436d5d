"""The served model's metrics on Triton's metrics port, through its custom-metric API.

One call of that API took 20 to 40 microseconds (Triton 2.51, two cores), a good part of what a
token costs. So a thread brings the totals up to date every `PERIOD_SECONDS`. The API's own
histograms take one observation a call: ours are counters, with the names and labels that Prometheus
gives the parts of a histogram.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from ..contract import (
    KV_CACHE_OCCUPANCY,
    MAMBA_STATE_OCCUPANCY,
    METRICS,
    MODEL_LABEL,
    RUNNING,
    WAITING,
    Metric,
    Series,
    series,
)
from ..service import Service

PERIOD_SECONDS: Final = 1.0
"""How old the values may be that Prometheus reads."""


class MetricsExporter:
    """Exports the totals and the load of `service` as metrics of the model `model`."""

    def __init__(self, service: Service, model: str) -> None:
        self._service = service
        self._model = model
        self._families = {
            name: _family(name, metric) for metric in METRICS for name in _names(metric)
        }
        self._counters = {
            one: self._metric(one)
            for metric in METRICS
            if metric.type != "gauge"
            for one in series(metric)
        }
        self._exported: dict[Series, float] = dict.fromkeys(self._counters, 0.0)
        self._gauges: dict[str, Any] = {}
        self._failure = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Export for the last time and stop."""
        self._closed.set()
        self._thread.join(timeout=2 * PERIOD_SECONDS)

    def _run(self) -> None:
        while not self._closed.wait(PERIOD_SECONDS):
            self._export()
        self._export()

    def _export(self) -> None:
        """Bring every metric up to date. What fails is tried again the next time."""
        try:
            for one, total in self._service.recorder.totals().items():
                added = total - self._exported[one]
                if added:
                    self._counters[one].increment(added)
                    self._exported[one] = total
            for metric, value in self._load():
                if metric.name not in self._gauges:
                    self._gauges[metric.name] = self._metric(Series(metric.name))
                self._gauges[metric.name].set(value)
        except Exception as error:
            if str(error) != self._failure:
                self._failure = str(error)
                pb_utils.Logger.log_warn(f"{self._model}: metrics are not up to date: {error}")

    def _load(self) -> Iterator[tuple[Metric, float]]:
        load = self._service.load
        yield RUNNING, load.running
        yield WAITING, max(self._service.live - load.running, 0)
        if load.kv_cache is not None:
            yield KV_CACHE_OCCUPANCY, load.kv_cache
        if load.mamba_state is not None:
            yield MAMBA_STATE_OCCUPANCY, load.mamba_state

    def _metric(self, one: Series) -> Any:
        labels = {MODEL_LABEL: self._model} | ({one.label: one.value} if one.label else {})
        return self._families[one.name].Metric(labels=labels)


def _names(metric: Metric) -> list[str]:
    return list(dict.fromkeys(one.name for one in series(metric)))


def _family(name: str, metric: Metric) -> Any:
    kinds = pb_utils.MetricFamily
    kind = kinds.GAUGE if metric.type == "gauge" else kinds.COUNTER
    return kinds(name=name, description=metric.help, kind=kind)
