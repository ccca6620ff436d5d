"""The Python interface: each command as a function, on the embedded checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from nemotron_deploy.api import build, quantize, verify
from nemotron_deploy.api.build import dry_run, prepare
from nemotron_deploy.api.doctor import doctor
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.core.result import MADE_BY, Result
from nemotron_deploy.model.spec import Workload

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"


def fits(result: Result, name: str) -> dict[str, Any]:
    """The document of `result`, which is JSON and keeps the schema in the docs."""
    document: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    files = {path.name: json.loads(path.read_text()) for path in SCHEMAS.iterdir()}
    registry = Registry().with_resources(
        (key, Resource.from_contents(schema)) for key, schema in files.items()
    )
    jsonschema.Draft202012Validator(files[name], registry=registry).validate(document)
    assert (document["schema"], document["made_by"]) == (result.SCHEMA, MADE_BY)
    return document


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    result = build("tiny", gpu="h100", quant="bf16", context=4096, out=str(out))
    assert (result.bundle, result.model_name) == (out, "tiny")
    assert result.made == ("checkpoint", "engine", "model_repository", "k8s")
    fits(result, "build-result.json")
    return out


def test_a_bundle_verifies(bundle: Path) -> None:
    result = verify(str(bundle))
    assert result.ok
    assert result.failed == ()
    assert {"ok", "checks"} <= fits(result, "verify-result.json").keys()


def test_a_dry_run_says_what_and_why(bundle: Path, tmp_path: Path) -> None:
    job = prepare("tiny", "a100", "bf16", Workload(context=4096), bundle)
    result = dry_run(job)
    assert [step.why for step in result.stages] == [None] + 3 * ["its inputs have changed"]
    fits(result, "dry-run-result.json")
    assert not list(tmp_path.iterdir())


def test_quantizing(tmp_path: Path) -> None:
    result = quantize("tiny", quant="int4", smooth=False, out=str(tmp_path / "out"))
    assert result.out == tmp_path / "out"
    assert result.calibration is None
    assert result.quality is not None
    assert result.quality.formats[0].weight_error.mean is not None
    document = fits(result, "quantize-result.json")
    assert "tensors" not in document["quality"]["formats"][0]["weight_error"]
    fits(result.quality, "quality-report.json")


def test_a_machine_is_examined() -> None:
    result = doctor()
    assert {ability.name for ability in result.abilities if ability.ok} >= {"inspect, plan"}
    fits(result, "doctor-result.json")


def test_errors_are_those_of_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown GPU 'h1000'"):
        build("tiny", gpu="h1000", quant="int4")
    with pytest.raises(RefusedError, match="fp8-sm89"):
        build("tiny", gpu="a100", quant="fp8", out=tmp_path / "b")
    with pytest.raises(BadInputError, match="no bundle here"):
        verify(tmp_path)
    with pytest.raises(BadInputError, match="there is no such text file"):
        quantize("tiny", quant="int4", out=tmp_path / "q", heldout=tmp_path / "none.txt")
    assert not list(tmp_path.iterdir())


def test_the_names_mean_the_functions_whatever_was_imported_before() -> None:
    program = """
import sys
import nemotron_deploy.api.verify
from nemotron_deploy import api
assert not {"torch", "transformers", "tritonclient"} & set(sys.modules)
for name in api.__all__:
    assert callable(getattr(api, name)), name
    assert getattr(api, name).__module__ == f"nemotron_deploy.api.{name}", name
from nemotron_deploy.api import build, loadtest, plan, quantize, serve, verify
from nemotron_deploy.api.build import prepare
assert build.__doc__ and not {"torch", "transformers", "tritonclient"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
