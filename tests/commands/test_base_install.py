"""With the base installation alone every command works, or says which extra to install."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.core.extras import EXTRA_OF, missing_package, require

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
DISTRIBUTIONS = {
    "modelopt": "nvidia-modelopt",
    "pytriton": "nvidia-pytriton",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}
"""Distributions that are not called as the module they install."""

BASE_ONLY = f"""
import importlib.machinery, importlib.metadata, sys
hidden = set({sorted(EXTRA_OF)!r}) | {{"nvidia_modelopt", "nvidia_pytriton"}}
find_spec = importlib.machinery.PathFinder.find_spec

def find_installed(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find_spec(name, path, target)

importlib.machinery.PathFinder.find_spec = find_installed
from_name = importlib.metadata.Distribution.from_name.__func__

def installed(cls, name):
    if name.lower().replace("-", "_") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(cls, name)

importlib.metadata.Distribution.from_name = classmethod(installed)
from nemotron_deploy.cli import main
main()
"""
"""`nemo-deploy` in an interpreter that sees no package which only an extra installs."""

TINY = ("--checkpoint", "tiny")
INT4 = ("--gpu", "h100", "--quant", "int4")


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BASE_ONLY, *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that another machine built, in BF16: no kernels are compiled."""
    from nemotron_deploy.cli import run as nemo_deploy

    out = tmp_path_factory.mktemp("built") / "bundle"
    command = ["build", "--gpu", "a100", "--quant", "bf16", *TINY, "--out", str(out), "--json"]
    assert nemo_deploy(command) == 0
    return out


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("inspect",), None),
        (("inspect", *TINY), None),
        (("inspect", "--checkpoint", "example/model"), "quantize"),
        (("plan", *INT4), None),
        (("plan", "--matrix", "--json"), None),
        (("plan", *INT4, "--checkpoint", "example/model"), "quantize"),
        (("quantize", "--quant", "int4", *TINY, "--out", "OUT"), "quantize"),
        (("quantize", "--quant", "int4", "--no-smooth", *TINY, "--out", "OUT"), "quantize"),
        (("quantize", "--quant", "fp8", *TINY, "--out", "OUT"), "quantize"),
        (("quantize", "--compare", "int4", *TINY, "--out", "OUT"), "quantize"),
        (("quantize", "--compare", "fp8", *TINY), "quantize"),
        (("build", *INT4, *TINY, "--out", "OUT"), "kernels"),
        (("build", "--gpu", "h100", "--quant", "fp8", *TINY, "--out", "OUT"), "quantize"),
        (("build", *INT4, "--out", "OUT"), "kernels"),
        (("verify", "BUNDLE"), None),
        (("warmup", "BUNDLE"), "quantize"),
        (("serve", "BUNDLE"), "local"),
        (("loadtest", "BUNDLE"), "local"),
        (("evaluate", "BUNDLE", "--tasks", "tiny_text"), "evaluate"),
        (("doctor",), None),
        (("demo", "--out", "OUT"), "kernels"),
    ],
)
def test_a_command_works_or_names_the_extra(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], extra: str | None
) -> None:
    places = {"BUNDLE": str(bundle), "OUT": str(tmp_path / "out")}
    done = run(*(places.get(word, word) for word in arguments), folder=tmp_path)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    if extra is None:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 4, done.stderr
    assert f"pip install 'nemotron-deploy[{extra}]'" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    done = run("doctor", folder=tmp_path)
    assert "nemotron-deploy[quantize]" in done.stdout


def test_each_module_belongs_to_an_extra_that_installs_it() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    installed = {
        extra: {re.split(r"[^\w.-]", row)[0].replace("-", "_") for row in requirements}
        for extra, requirements in project["optional-dependencies"].items()
    }
    for module, extra in EXTRA_OF.items():
        assert DISTRIBUTIONS.get(module, module).replace("-", "_") in installed[extra], module
    modules = {DISTRIBUTIONS.get(name, name).replace("-", "_") for name in EXTRA_OF}
    for extra in installed.keys() - {"dev"}:
        assert installed[extra] <= modules, extra


def test_a_module_of_our_own_or_of_nobody_is_no_missing_extra() -> None:
    for name in ("nemotron_deploy.gone", "somebody_elses", None):
        assert missing_package(ModuleNotFoundError("no", name=name)) is None
    assert missing_package(ModuleNotFoundError("no", name="torch._gone")) is None, "it is here"
    assert missing_package(ImportError("cannot import name", name="torch")) is None


def test_require_says_what_for_and_what_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemotron_deploy.core import extras

    require("torch", purpose="calibration")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(BadInputError) as caught:
        require("modelopt", purpose="calibration", instead="; or leave it out")
    assert str(caught.value) == (
        "calibration needs the Python package modelopt, which is not installed. Install it with "
        "pip install 'nemotron-deploy[quantize]'; or leave it out"
    )
