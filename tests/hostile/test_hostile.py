"""Hostile checkpoints: each one gets a message, quickly, in little memory, and nothing runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nemotron_deploy.model.catalog import TINY

HERE = Path(__file__).parent
SECONDS = 5.0
BYTES_ABOVE_IDLE = 256_000_000


def _beside(name: str) -> ModuleType:
    spec = spec_from_file_location(f"hostile_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fixtures = _beside("fixtures")


def measured(commands: list[list[str]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(HERE / "measured.py")],
        input=json.dumps(commands), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def deploy(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nemotron_deploy", *arguments]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answer to every case, by its name, and an idle interpreter's figures as `idle`."""
    root = tmp_path_factory.mktemp("hostile")
    commands = [[sys.executable, "-c", "pass"]]
    for number, case in enumerate(fixtures.CASES):
        path = root / str(number)
        shutil.copytree(TINY, path)
        case.make(path)
        rest = ["--quant", "int4", "--out", str(root / f"{number}-out")]
        if case.command == "calibrate":
            rest += ["--calibration", str(path / "text.jsonl")]
        verb = "inspect" if case.command == "inspect" else "quantize"
        commands.append(
            deploy(verb, "--checkpoint", str(path), *(rest if verb != "inspect" else ()))
        )
    idle, *found = measured(commands)
    by_name = {case.name: row for case, row in zip(fixtures.CASES, found, strict=True)}
    return {"idle": idle, "root": root, **by_name}


@pytest.mark.parametrize("case", fixtures.CASES, ids=lambda case: case.name)
def test_every_class_gets_one_message(answers: dict[str, Any], case: Any) -> None:
    row = answers[case.name]
    assert row["code"] == 4, row["err"]
    lines = [line for line in row["err"].splitlines() if line]
    assert len([line for line in lines if line.startswith("error: ")]) == 1, row["err"]
    assert case.says in row["err"]
    assert "Traceback" not in row["err"]
    assert "\x1b" not in row["err"]
    assert not row["out"]
    assert len(row["err"]) < 1000
    assert row["cpu_seconds"] < SECONDS
    assert row["bytes"] - answers["idle"]["bytes"] < BYTES_ABOVE_IDLE


def test_nothing_was_run_or_written(answers: dict[str, Any]) -> None:
    root = answers["root"]
    assert not list(root.glob("*/harmed"))
    assert not list(root.glob("*-out"))
    assert not list(root.glob(".nemo-deploy*"))


def test_code_of_a_checkpoint_is_neither_run_nor_copied(tmp_path: Path) -> None:
    """M9: every published checkpoint has an `auto_map`; nothing here follows it."""
    path, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(TINY, path)
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()\n"
    for name in ("modeling_nemotron_h.py", "configuration_nemotron_h.py", "tokenization_x.py"):
        (path / name).write_text(code)
    for name, keys in {
        "config.json": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig",
                        "AutoModelForCausalLM": "modeling_nemotron_h.NemotronHForCausalLM"},
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_x.X", None]},
    }.items():  # fmt: skip
        fields = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**fields, "auto_map": keys}))
    command = deploy("quantize", "--checkpoint", str(path), "--quant", "int4", "--out", str(out))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path)
    assert done.returncode == 0, done.stderr
    assert not trace.exists()
    assert not list(out.rglob("*.py"))


def test_the_module_under_test_is_the_installed_one() -> None:
    assert import_module("nemotron_deploy.core.untrusted").__file__
