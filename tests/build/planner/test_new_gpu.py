"""A new GPU costs a row in gpus.json and, where its architecture is new, one record of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.plan import PlanRequest, compare
from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.planner.plan import plan
from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model import catalog
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.peers import peer
from nemotron_deploy.model.spec import Plan, Workload
from nemotron_deploy.tests.build.nano import planned

B300: dict[str, Any] = {
    "key": "b300",
    "name": "B300",
    "sm": 103,
    "memory_mib": 275040,
    "cuda_mib": 274000,
    "bandwidth_tb_s": 8.0,
    "bf16_tflops": 2250,
    "fp8_tflops": 4500,
    "link_gb_s": 900,
    "fabric": "nvlink",
    "product_labels": ["NVIDIA-B300"],
    "aliases": ["B300 288GB"],
    "variants": [],
}
BLACKWELL: dict[str, Any] = {
    "sm": 103,
    "like": 90,
    "name": "Blackwell Ultra",
    "source": "taken for an H100",
}

Install = Callable[[dict[str, Any], dict[str, Any] | None], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Adds a GPU and an architecture to copies of the catalogue's files."""

    def add(path: Path, table: str, row: dict[str, Any] | None, constant: str) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        document[table] += [row] if row else []
        changed = tmp_path / path.name
        changed.write_text(json.dumps(document), encoding="utf-8")
        monkeypatch.setattr(catalog, constant, changed)

    def forget() -> None:
        catalog.gpus.cache_clear()
        catalog.architectures.cache_clear()

    def both(gpu: dict[str, Any], architecture: dict[str, Any] | None) -> None:
        add(catalog.GPUS, "gpus", gpu, "GPUS")
        add(catalog.ARCHITECTURES, "architectures", architecture, "ARCHITECTURES")
        forget()

    yield both
    monkeypatch.undo()
    forget()


def answer(quant: str, trtllm: str | None = None) -> Plan:
    return planned("b300", quant, trtllm)


def test_a_b300_is_planned_or_refused_in_every_format(install: Install) -> None:
    install(B300, BLACKWELL)
    for quant in ("bf16", "fp8"):
        result = answer(quant)
        assert (result.status, result.rule, result.sm) == ("supported", quant, 103)
        assert result.estimate is not None
        h200 = planned("h200", quant).estimate
        assert h200 is not None
        assert result.estimate.decode_tokens_per_s > h200.decode_tokens_per_s
    refused = {"int8": "int8-kernels", "int4": "int4-kernels", "nvfp4": "nvfp4-sm100"}
    for quant, rule in refused.items():
        result = answer(quant)
        assert (result.status, result.rule) == ("refused", rule)
        assert "SM103" in result.reasons[0]
        assert result.alternatives[:2] == ("--quant fp8", "--quant bf16")
        for text in result.alternatives[:2]:
            assert answer(text.split()[1]).buildable


def test_a_b300_is_in_the_matrix_and_compared_with_peers(install: Install) -> None:
    install(B300, BLACKWELL)
    matrix = compare(PlanRequest("nemotron-3-nano-30b-a3b", Workload(), gpu="b300"))
    assert [cell.supported for cell in matrix.cells] == [True, True, False, False, False]
    other = peer("qwen3-30b-a3b")
    assert other is not None
    found = plan(other, catalog.gpu("B300 288GB"), QUANTS["bf16"], Workload())
    assert found.status == "compared"


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_a_build_for_missing_kernels_is_refused_before_any_work(
    install: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    install(B300, BLACKWELL)
    out = tmp_path / "bundle"
    build = ["build", "--checkpoint", "tiny", "--gpu", "b300", "--quant", "int4"]
    assert run([*build, "--out", str(out), *arguments]) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "rule: int4-kernels" in message
    assert "What works instead: --quant fp8; --quant bf16" in message
    assert not out.exists()


def test_a_gpu_without_an_architecture_is_an_error_that_names_the_file(install: Install) -> None:
    install(B300, None)
    with pytest.raises(
        BadInputError, match=r"architectures\.json: SM103 has no record; SM80, SM86"
    ):
        catalog.gpus()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": {}}, "SM103: `experts` has no rates for the format bf16"),
        ({"flops": {"bf16": 0.7}}, "SM103: `flops` has no share for fp8 operands"),
        ({"sm": 90}, "two records have the same `sm`"),
        ({"like": 95}, "`like` names SM95, which is missing"),
        ({"layer_us": {"M": 22}}, r"SM103: the field '\*' is missing"),
        ({"operands": ["bf16"]}, "B300: `fp8_tflops` must be a number exactly where SM103 has fp8"),
    ],
)
def test_an_incomplete_architecture_is_refused_when_loaded(
    install: Install, changes: dict[str, Any], message: str
) -> None:
    install(B300, {**BLACKWELL, **changes})
    with pytest.raises(BadInputError, match=message):
        catalog.gpus()


def test_an_incomplete_gpu_is_refused_when_loaded(install: Install) -> None:
    install({key: value for key, value in B300.items() if key != "memory_mib"}, BLACKWELL)
    with pytest.raises(BadInputError, match="b300: the field 'memory_mib' is missing"):
        catalog.gpus()


@pytest.mark.parametrize("trtllm", [None, "1.3.0rc24"])
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("sm", [75, 87, 103, 122])
def test_any_architecture_is_planned_or_refused_with_a_way_out(
    install: Install, sm: int, quant: str, trtllm: str | None
) -> None:
    install({**B300, "sm": sm}, {**BLACKWELL, "sm": sm})
    result = answer(quant, trtllm)
    assert result.rule
    assert result.reasons[0]
    if result.refused:
        assert result.alternatives
        assert "{" not in result.reasons[0]
    if sm < 80:
        assert result.refused
    assert not result.engine.plugin, "there are no kernels for any of these"


def test_a_gpu_older_than_every_rule_is_refused_by_name(install: Install) -> None:
    install({**B300, "sm": 75}, {**BLACKWELL, "sm": 75})
    result = answer("bf16")
    assert result.rule == "no-rule"
    assert "no support rule for BF16 on SM75 with TensorRT-LLM >=1.2.1,<1.3" in result.reasons[0]
    assert result.engine.versions == engine().release.versions
