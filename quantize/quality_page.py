"""The quality report as a page to look at."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from ..core.html import Series, bars, bullets, charts, heading, lines, page, paragraph, table

_AXIS: Final = "layer (M Mamba, * attention, E experts, - MLP)"

_COLUMNS: Final = (
    "Weight error: how far quantized weights are from the source's, relative to their size "
    "(root mean square over all quantized tensors).",
    "Perplexity: how well the model predicts held-out text. Lower is better.",
    "KL divergence: how far the predicted probabilities are from the source's, per token. "
    "0 means identical.",
    "Same top token: how often both models find the same token most likely.",
)


def quality_page(report: Mapping[str, Any], made_on: date) -> str:
    """A self-contained HTML page of a quality report."""
    formats = report["formats"]
    run = [row for row in formats if row["fidelity"]]
    parts = [
        paragraph(
            f"{len(formats)} formats compared with the source of "
            f"{_size(report['source']['bytes'])}."
            if len(formats) > 1
            else f"{formats[0]['format']}, compared with the source of "
            f"{_size(report['source']['bytes'])}."
        ),
        _overview(report),
        bullets(_COLUMNS, "soft"),
    ]
    if report["missing"]:
        parts.append(paragraph(report["missing"], "note"))
    parts += [
        paragraph(f"{row['key']} was calibrated on {_calibration(row['calibration'])}.", "soft")
        for row in formats
        if row["calibration"]
    ]
    layers = [f"{index}{letter}" for index, letter in enumerate(report["pattern"])]
    by_layer = [
        lines(
            [Series(row["key"], _by_layer(row, report["pattern"])) for row in formats],
            layers,
            "Error of the quantized weights of each layer (relative Frobenius error)",
            _AXIS,
        )
    ]
    if run:
        heldout = report["heldout"]
        parts += [
            heading("Divergence from the source"),
            bars(
                {row["key"]: row["fidelity"]["kl"] for row in run},
                {row["key"]: f"{row['fidelity']['kl']:.2e}" for row in run},
                "KL divergence per token, in nats",
            ),
            paragraph(
                f"Measured over {heldout['tokens']:,} tokens of held-out text "
                f"({heldout['source']}).",
                "soft",
            ),
        ]
        by_layer.append(
            lines(
                [Series(row["key"], row["fidelity"]["layer_errors"]) for row in run],
                layers,
                "Error of the hidden state after each layer (relative)",
                _AXIS,
            )
        )
    parts += [heading("Errors by layer"), charts(by_layer)]
    for row in formats:
        parts += [
            heading(f"Largest weight errors in {row['key']}"),
            table(
                ("tensor", "error"),
                [(name, f"{error:.2%}") for name, error in row["weight_error"]["worst"].items()],
            ),
        ]
    parts += [heading("How this was measured"), paragraph(report["method"], "soft")]
    return page(f"{report['model']}: what quantization costs", parts, made_on)


def _overview(report: Mapping[str, Any]) -> str:
    header = ("format", "size", "weight error", "perplexity", "KL, nats", "same top token")
    perplexity = report["source"]["perplexity"]
    rows = [("source", _size(report["source"]["bytes"]), "0", _number(perplexity), "0", "100%")]
    for row in report["formats"]:
        fidelity = row["fidelity"] or {"perplexity": None, "kl": None, "top1": None}
        error = row["weight_error"]["mean"]
        rows.append(
            (
                row["key"],
                _size(row["bytes"]),
                "-" if error is None else f"{error:.2%}",
                _number(fidelity["perplexity"]),
                "-" if fidelity["kl"] is None else f"{fidelity['kl']:.2e}",
                "-" if fidelity["top1"] is None else f"{fidelity['top1']:.2%}",
            )
        )
    return table(header, rows)


def _calibration(record: Mapping[str, Any]) -> str:
    """The text of a calibration, and what is thin about it."""
    text = f"{record['tokens']:,} tokens ({record['source']})"
    return f"{text}. The text is thin: {record['thin']}" if record["thin"] else text


def _by_layer(row: Mapping[str, Any], pattern: str) -> list[float | None]:
    """The error of each layer, None for layers without quantized tensors."""
    return [row["weight_error"]["layers"].get(str(index)) for index in range(len(pattern))]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
