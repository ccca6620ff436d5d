"""The copied runtime package, in an interpreter that cannot see the installed project."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_deploy import runtime, triton_repo
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment
from nemotron_deploy.runtime import contract

HERE = Path(__file__).parent
SOURCE = Path(runtime.__file__).parent


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """The served model of a bundle around the embedded checkpoint."""
    shutil.copytree(catalog.TINY, tmp_path / "checkpoint")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "llm_args.yaml").write_text("max_seq_len: 512\n")
    repository = tmp_path / "model_repository"
    repository.mkdir()
    deployment = Deployment(
        name="tiny-h100-bf16", model_name="tiny", image="none", gpu=catalog.gpu("h100"), gpus=1,
        quant="bf16", bundle_bytes=1, executor="trtllm", max_batch_size=1,
    )  # fmt: skip
    triton_repo.emit(repository, deployment)
    return repository / "tiny"


def start(model_directory: Path) -> subprocess.CompletedProcess[str]:
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    files = (HERE / "standalone.py", HERE / "fakes", model_directory)
    command = [sys.executable, "-I", "-S", *map(str, files)]
    return subprocess.run([*command, *packages], capture_output=True, text=True, check=False)


def test_the_copy_starts_and_answers(model_directory: Path) -> None:
    done = start(model_directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "line",
    ["from nemotron_deploy.core import files", "from ...core import files", "from .. import core"],
)
def test_a_module_that_imports_the_project_is_caught(model_directory: Path, line: str) -> None:
    package = model_directory / "1" / contract.PACKAGE
    (package / "triton" / "guard.py").write_text(f"{line}\n\nGuard = None\n")
    done = start(model_directory)
    assert done.returncode == 1
    assert "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr


def test_imports_within_the_runtime_are_relative() -> None:
    """An absolute one would not work under the name that bundles give the package."""
    for path in SOURCE.rglob("*.py"):
        depth = len(path.relative_to(SOURCE).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{path}: leaves the package"
                names = [node.module or ""] if not node.level else []
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                top = name.partition(".")[0]
                assert top not in ("nemotron_deploy", contract.PACKAGE), f"{path}: {name}"
