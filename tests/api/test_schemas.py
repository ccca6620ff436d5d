"""The JSON schemas in the docs follow from the types in the code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "reference" / "schemas"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = ROOT / "scripts" / "generate_schemas.py"
    spec = importlib.util.spec_from_file_location("generate_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_that_the_code_makes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate_schemas.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    there = {path.name: path.read_text() for path in SCHEMAS.iterdir()}
    assert there == made, "run python scripts/generate_schemas.py"


def test_every_command_has_a_schema_that_is_one(generator: ModuleType) -> None:
    names = {kind.__name__ for kind in generator.results()}
    assert {
        "BuildResult", "DemoResult", "DoctorResult", "DryRunResult", "LoadTestResult",
        "QualityReport", "QuantizeResult", "ServeResult", "VerifyResult", "WarmupResult",
    } <= names  # fmt: skip
    for name, schema in generator.schemas().items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], name
        for key, part in schema["properties"].items():
            if "$ref" in part and part["$ref"].endswith(".json"):
                assert (SCHEMAS / part["$ref"]).is_file(), key


def test_a_recorded_bundle_fits_its_schema() -> None:
    from nemotron_deploy.core.record import parse_record, to_document

    old = json.loads((ROOT / "tests" / "core" / "golden" / "bundle-schema-1.json").read_text())
    document = json.loads(json.dumps(to_document(parse_record(old, Path("bundle.json")))))
    schema = json.loads((SCHEMAS / "bundle.json").read_text())
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"complete": "no"}, schema)
