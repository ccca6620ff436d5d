"""Prometheus' text format, as far as the metrics of `catalog` need it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from .catalog import LABELS, METRICS

MOST_SERIES: Final = 64
"""Time series of one page; more are left out."""
_LABEL_LENGTH: Final = 100

_LINE: Final = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\S+)?", re.ASCII)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"', re.ASCII)
_NAMES: Final = tuple(METRICS)

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A time series: the name of its metric, and its labels."""


def read(text: str) -> dict[Key, float]:
    """The values of the known metrics on a page, in the units of the catalog. Lines that cannot be
    read are left out."""
    values: dict[Key, float] = {}
    for line in text.splitlines():
        if not line.startswith(_NAMES):  # most lines, quickly
            continue
        match = _LINE.fullmatch(line.strip())
        known = METRICS.get(match[1]) if match else None
        if match is None or known is None:
            continue
        try:
            value = float(match[3]) * known.factor
        except ValueError:
            continue
        key = match[1], _labels(match[2] or "")
        if math.isfinite(value) and (key in values or len(values) < MOST_SERIES):
            values[key] = values.get(key, 0.0) + value
    return values


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    """Those that are kept. Series that differ in others are added up."""
    labels: Mapping[str, str] = dict(_LABEL.findall(text))
    return tuple((name, labels[name][:_LABEL_LENGTH]) for name in LABELS if name in labels)
