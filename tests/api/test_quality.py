"""What quantization costs: the report, its page, and what is said where a part is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.api import quality
from nemotron_deploy.api.quality import compare
from nemotron_deploy.api.quantize import quantize_source
from nemotron_deploy.api.quantize_options import options_for
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model.recipes import CONSERVATIVE


def test_comparing_formats(tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = compare("tiny", "fp8,int8,int4,int4-plain", out=out)
    assert [row.key for row in report.formats] == ["fp8", "int8", "int4", "int4-plain"]
    assert report.missing is None
    fp8, int8, int4, plain = (row.fidelity.kl for row in report.formats if row.fidelity)
    assert int8 < fp8 / 10
    assert fp8 < int4 < plain
    assert report.heldout is not None
    assert report.heldout.source.startswith("built-in")
    assert json.loads((out / "quality.json").read_text()) == report.to_json()
    page = (out / "quality.html").read_text()
    assert f"{plain:.2e}" in page
    assert "int4-plain" in page
    assert {path.name for path in tmp_path.iterdir()} == {"report"}


def test_a_machine_too_small_still_measures_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "available_memory", lambda: 1000)
    report = compare("tiny", "int4-plain")
    (row,) = report.formats
    assert row.fidelity is None
    assert report.source.perplexity is None
    missing, mean = report.missing, row.weight_error.mean
    assert missing is not None
    assert "are missing" in missing
    assert "0 MB are free here" in missing
    assert mean is not None
    assert 0.05 < mean < 0.2
    assert set(row.weight_error.layers) == {"1", "4", "6"}


def test_a_large_model_is_not_run_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quality, "RUN_BELOW", 1000)
    quantize_source("tiny", options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / "out")
    report = json.loads((tmp_path / "out/report/quality.json").read_text())
    assert "--compare int4" in report["missing"]
    assert report["formats"][0]["weight_error"]["mean"] > 0
    heldout = tmp_path / "text.jsonl"
    heldout.write_text('{"text": "What is 2 plus 3? It is 5."}\n')
    options = options_for(CONSERVATIVE["int4"], smooth=False, heldout=heldout)
    quantize_source("tiny", options, tmp_path / "asked")
    report = json.loads((tmp_path / "asked/report/quality.json").read_text())
    assert report["missing"] is None
    assert report["heldout"]["source"] == str(heldout)
    assert report["formats"][0]["fidelity"]["kl"] > 0


def test_the_report_beside_a_quantized_checkpoint(tmp_path: Path) -> None:
    result = quantize_source("tiny", options_for(CONSERVATIVE["int4"]), tmp_path / "out")
    report = json.loads((tmp_path / "out/report/quality.json").read_text())
    (row,) = report["formats"]
    assert row["key"] == "int4"
    assert row["calibration"]["smoothing"]
    shown = result.to_json()["quality"]
    assert shown["formats"][0]["fidelity"] == row["fidelity"]
    assert "tensors" not in shown["formats"][0]["weight_error"]
    assert len(row["weight_error"]["tensors"]) == result.tensors
    assert result.calibration is not None
    assert result.calibration.smoothing[0].output_error_smoothed > 0


def test_text_of_ones_own_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.jsonl: there is no such text file"):
        options_for(CONSERVATIVE["int4"], heldout=tmp_path / "none.jsonl")
    with pytest.raises(BadInputError, match=r"none\.jsonl: there is no such text file"):
        compare("tiny", "int4-plain", heldout=tmp_path / "none.jsonl")
