"""The contract: complete, documented, and the only place where a name is spelled."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemotron_deploy.runtime import contract

FOLDER = Path(contract.__file__).resolve().parent
ROOT = FOLDER.parents[1]
NOT_THE_PACKAGE = {"tests", "benchmarks", "scripts", "docs", "dist"}
STANDS_ALONE = {
    "runtime/check_bundle.py",  # runs by itself in a container
    "build/kernels/aot.py",  # travels with the kernels, which import nothing else
}
NAMES = {variable.name for variable in contract.VARIABLES}
OF_OTHERS = re.compile(r"(TLLM|HF|TRANSFORMERS|TORCHINDUCTOR|OMP|GOMP|XDG|CUDA|NVIDIA)_[A-Z_]+")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for top in sorted(ROOT.iterdir()):
        if top.name in NOT_THE_PACKAGE or top.name.startswith("."):
            continue
        for path in [top] if top.suffix == ".py" else sorted(top.rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def texts(tree: ast.Module) -> set[str]:
    """Every piece of text in a module, docstrings and help included."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_names_of_our_own_are_spelled_here_alone() -> None:
    found = {name for name, tree in modules() if any("NEMO_DEPLOY_" in t for t in texts(tree))}
    assert found == {"runtime/contract/variables.py"}


def test_every_variable_that_is_read_or_set_is_listed() -> None:
    """Also those of others: whatever subscripts or asks `os.environ` with a literal."""
    unlisted = []
    for name, tree in modules():
        for node in ast.walk(tree):
            key: ast.expr | None = None
            if isinstance(node, ast.Subscript) and _is_environ(node.value):
                key = node.slice
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if _is_environ(of) or (node.func.attr == "getenv" and node.args):
                    key = node.args[0] if node.args else None
            if isinstance(key, ast.Constant):
                if key.value not in NAMES:
                    unlisted.append(f"{name}: {key.value!r}")
                assert name in STANDS_ALONE | {"hub/client.py"}, f"{name}: read it from contract"
        unlisted += [
            f"{name}: {text}"
            for text in texts(tree)
            if OF_OTHERS.fullmatch(text) and text not in NAMES
        ]
    assert not unlisted


def _is_environ(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def test_tensors_are_spelled_here_alone() -> None:
    """As whole literals; a word such as `stop` means other things, too."""
    tensors = {tensor.name for tensor in (*contract.INPUTS, *contract.OUTPUTS)}
    distinct = {name for name in tensors if "_" in name} - _SDK_NAMES
    found = {name for name, tree in modules() if texts(tree) & distinct}
    assert found == {"runtime/contract/tensors.py"}


_SDK_NAMES = {
    "stop_reason", "finish_reason", "return_perf_metrics", "acceptance_rate", "max_tokens", "top_p",
    "frequency_penalty", "presence_penalty", "ignore_eos", "input_ids", "reasoning_content",
    "tool_calls",
}  # fmt: skip
"""Also names of fields: of ours, TensorRT-LLM's, transformers' and OpenAI's."""


def test_every_entry_is_described_once() -> None:
    groups = (contract.INPUTS, contract.OUTPUTS, contract.PORTS, contract.VARIABLES)
    for group in groups:
        names = [entry.name for entry in group]
        assert len(set(names)) == len(names)
        for entry in group:
            assert entry.meaning.endswith("."), entry.name
            assert "\n" not in entry.meaning
    assert {contract.CACHE, contract.EXECUTOR, contract.GOLDEN, contract.DEBUG} <= set(
        contract.VARIABLES
    )


def test_only_the_standard_library_is_needed() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import contract"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, FOLDER.parent],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "LD_PRELOAD"],
)
def test_secrets_and_proxies_do_not_reach_children(name: str) -> None:
    given = {name: "secret", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}
    assert contract.child_environment(given) == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}


def test_a_sandboxed_child_has_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nemotron_deploy.runtime.isolation import Limits, Worker

    (tmp_path / "looks.py").write_text(
        "import os\nfrom nemotron_deploy.runtime.isolation import serve\n"
        "serve(lambda name: os.environ.get(name))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Worker("looks", Limits(seconds=5, memory=200 << 20)) as worker:
        assert worker.ask("PYTHONPATH") == str(tmp_path)
        assert worker.ask("HF_TOKEN") is None
