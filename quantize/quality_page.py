"""The quality report as a page to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.html import Series, bars, heading, lines, page, paragraph, table


def quality_page(report: Mapping[str, Any]) -> str:
    """A self-contained HTML page of a quality report."""
    formats = report["formats"]
    run = [row for row in formats if row["fidelity"]]
    parts = [
        paragraph(
            f"{len(formats)} formats beside the source of {_size(report['source']['bytes'])}."
        )
        if len(formats) > 1
        else paragraph(f"{formats[0]['format']}."),
        _overview(report),
    ]
    if report["missing"]:
        parts.append(paragraph(report["missing"], "note"))
    if run:
        heldout = report["heldout"]
        parts += [
            heading("Divergence from the source"),
            bars(
                {row["key"]: row["fidelity"]["kl"] for row in run},
                {row["key"]: f"{row['fidelity']['kl']:.2e}" for row in run},
                "KL divergence per token, nats, over "
                f"{heldout['tokens']:,} tokens of held-out text ({heldout['source']})",
            ),
            heading("Error after each layer"),
            lines(
                [Series(row["key"], row["fidelity"]["layer_errors"]) for row in run],
                [f"{index}{letter}" for index, letter in enumerate(report["pattern"])],
                "relative error of the hidden state; M Mamba, * attention, E experts, - MLP",
            ),
        ]
    parts += [
        heading("Error of the weights"),
        lines(
            [Series(row["key"], _by_layer(row, report["pattern"])) for row in formats],
            [f"{index}{letter}" for index, letter in enumerate(report["pattern"])],
            "relative Frobenius error of the quantized tensors of each layer (root mean square)",
        ),
    ]
    for row in formats:
        parts += [
            heading(f"Largest errors in {row['key']}"),
            table(
                ("tensor", "error"),
                [(name, f"{error:.2%}") for name, error in row["weight_error"]["worst"].items()],
            ),
        ]
    parts.append(paragraph(report["method"], "soft"))
    return page(f"{report['model']}: what quantization costs", parts)


def _overview(report: Mapping[str, Any]) -> str:
    header = ("format", "size", "weight error", "perplexity", "KL, nats", "same top token")
    perplexity = report["source"]["perplexity"]
    rows = [("source", _size(report["source"]["bytes"]), "0", _number(perplexity), "0", "100%")]
    for row in report["formats"]:
        found = row["fidelity"] or {"perplexity": None, "kl": None, "top1": None}
        error = row["weight_error"]["mean"]
        rows.append(
            (
                row["key"],
                _size(row["bytes"]),
                "-" if error is None else f"{error:.2%}",
                _number(found["perplexity"]),
                "-" if found["kl"] is None else f"{found['kl']:.2e}",
                "-" if found["top1"] is None else f"{found['top1']:.2%}",
            )
        )
    return table(header, rows)


def _by_layer(row: Mapping[str, Any], pattern: str) -> list[float | None]:
    """The line breaks nowhere: layers without quantized tensors are simply passed over."""
    return [row["weight_error"]["layers"].get(str(index)) for index in range(len(pattern))]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
