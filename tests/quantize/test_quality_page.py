"""The quality report's page: charts with captions, words explained, what made it and when."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from nemotron_deploy import __version__
from nemotron_deploy.quantize.quality_page import quality_page

DAY = date(2026, 11, 27)


def entry(key: str, *, run: bool) -> dict[str, Any]:
    fidelity = {"perplexity": 1.7, "kl": 2e-4, "top1": 0.99, "layer_errors": [0.0, 0.01, 0.02]}
    return {
        "key": key,
        "format": f"the format {key}",
        "bytes": 3_740_000,
        "weight_error": {"mean": 0.03, "layers": {"1": 0.03}, "worst": {"backbone.x": 0.04}},
        "calibration": None,
        "fidelity": fidelity if run else None,
    }


def report(*keys: str, run: bool = True) -> dict[str, Any]:
    return {
        "model": "tiny",
        "pattern": "MEM",
        "source": {"bytes": 5_700_000, "perplexity": 1.6 if run else None},
        "heldout": {"source": "built-in", "tokens": 2083} if run else None,
        "formats": [entry(key, run=run) for key in keys],
        "missing": None if run else "Perplexity is missing: too large.",
        "method": "As measured.",
    }


def test_charts_have_captions_and_the_page_says_what_made_it() -> None:
    text = quality_page(report("fp8", "int4"), DAY)
    captions = re.findall(r"<figure><figcaption>(.*?)</figcaption>", text)
    assert len(captions) == text.count("<svg") == 3
    assert "KL divergence per token, in nats" in captions
    assert f"Made by nemo-deploy {__version__} on 2026-11-27." in text
    for word in ("Perplexity: how well", "KL divergence: how far", "Weight error: how far"):
        assert word in text


def test_a_model_that_was_not_run_has_the_weights_alone() -> None:
    text = quality_page(report("int4", run=False), DAY)
    assert text.count("<svg") == 1
    assert "Perplexity is missing: too large." in text
    assert "the format int4, compared with the source of 5.70 MB." in text


def test_the_calibration_text_is_named_with_what_is_thin_about_it() -> None:
    whole = report("int4", "nvfp4")
    whole["formats"][0]["calibration"] = {"source": "ours.jsonl", "tokens": 1234, "thin": None}
    text = quality_page(whole, DAY)
    assert "int4 was calibrated on 1,234 tokens (ours.jsonl)." in text
    assert "nvfp4 was calibrated" not in text
    whole["formats"][0]["calibration"]["thin"] = "3 of 8 experts received too few"
    assert "The text is thin: 3 of 8 experts received too few" in quality_page(whole, DAY)
