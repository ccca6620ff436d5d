"""Engines side by side: in plans, in the matrix, and bundles for the second one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.build import dry_run, make, prepare
from nemotron_deploy.api.plan import PlanRequest, compare, plan
from nemotron_deploy.api.serve import chosen_executor
from nemotron_deploy.api.trust import require_trusted
from nemotron_deploy.api.verify import verify
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.model.bent import both
from nemotron_deploy.tests.model.quantized_cases import (
    encoded,
    experts,
    int4,
    llm_compressor,
    modelopt,
    packed,
)


class TestPlan:
    def test_both_are_shown_with_what_they_rest_on(self) -> None:
        ours, vllm = plan(gpu="a100", quant="int4").engines
        assert (ours.engine, ours.status, ours.proven) == ("tensorrt-llm", "supported", False)
        assert ours.rests_on == "nemo-deploy's plugin and kernels"
        assert (vllm.engine, vllm.status, vllm.proven) == ("vllm", "supported", True)
        assert vllm.rests_on == "released parts alone"
        assert vllm.image == "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3"
        (tested,) = plan(gpu="h100", quant="int4").engines[0].tested_on
        assert tested.startswith("NVIDIA H200")

    @pytest.mark.parametrize(
        ("gpu", "quant", "chosen", "hint"),
        [
            ("a100", "int4", "vllm", "plugin and kernels for this, which have not served"),
            ("a100", "fp8", "vllm", "TensorRT-LLM does not serve this here"),
            ("h100", "nvfp4", "vllm", "TensorRT-LLM does not serve this here"),
            ("h100", "fp8", "tensorrt-llm", None),
            ("a100", "bf16", "tensorrt-llm", None),
        ],
    )
    def test_one_line_where_another_needs_nothing_unproven(
        self, gpu: str, quant: str, chosen: str, hint: str | None
    ) -> None:
        default = plan(gpu=gpu, quant=quant)
        assert default.engine.name == "tensorrt-llm"
        if hint is None:
            assert default.engine_hint is None
        else:
            assert default.engine_hint is not None
            assert hint in default.engine_hint
            command = f"nemo-deploy build --gpu {gpu} --quant {quant} --engine vllm"
            assert default.engine_hint.endswith(command)
        picked = plan(gpu=gpu, quant=quant, engine="auto")
        assert (picked.engine.name, picked.engine_hint) == (chosen, None)

    def test_the_hint_builds_what_was_planned(self, tiny_copy: Path) -> None:
        hint = plan(str(tiny_copy), gpu="a100", quant="int4", gpus=2, context=4096).engine_hint
        assert hint is not None
        assert f"build --checkpoint {tiny_copy} --gpu a100 --gpus 2 --quant int4" in hint

    def test_the_matrix_knows_both(self) -> None:
        cells = {c.quant: c for c in compare(PlanRequest("tiny", Workload(), gpu="a100")).cells}
        assert {cell.engine for cell in cells.values()} == {"tensorrt-llm"}
        assert all(cell.others == ("vllm",) for cell in cells.values())
        request = PlanRequest("tiny", Workload(), gpu="a100", engine="auto")
        picked = {cell.quant: cell.engine for cell in compare(request).cells}
        assert picked == {
            "bf16": "tensorrt-llm", "fp8": "vllm", "int8": "vllm", "int4": "vllm", "nvfp4": "vllm",
        }  # fmt: skip

    def test_versions_belong_to_their_engine(self) -> None:
        found = plan(gpu="h100", quant="int4", engine="vllm", vllm="0.24.0")
        assert found.engine.versions == ">=0.24,<0.25"
        with pytest.raises(UsageError, match=r"--vllm 0\.24\.0 is a version of another"):
            plan(gpu="h100", quant="int4", vllm="0.24.0")
        with pytest.raises(UsageError, match=r"--vllm 0\.1: there are no support rules"):
            plan(gpu="h100", quant="int4", engine="vllm", vllm="0.1")
        with pytest.raises(UsageError, match=r"'new' is not a version; an example is 0\.27\.1"):
            plan(gpu="h100", quant="int4", engine="vllm", vllm="new")

    @pytest.mark.parametrize("command", ["plan", "build"])
    def test_an_unknown_engine(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([command, "--gpu", "h100", "--quant", "int4", "--engine", "vlm"]) == 2
        assert "unknown engine 'vlm'" in (error := capsys.readouterr().err)
        assert "did you mean vllm?" in error

    def test_the_view_shows_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["plan", "--gpu", "a100", "--quant", "int4"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "vLLM >=0.27.1,<0.28: released parts alone" in shown
        assert "nemo-deploy build --gpu a100 --quant int4 --engine vllm" in shown
        assert run(["plan", "--matrix", "--gpu", "a100", "--checkpoint", "tiny"]) == 0
        assert "(vllm)" in capsys.readouterr().out


class TestSglang:
    @pytest.mark.parametrize("quant", ["int4", "fp8"])
    def test_a_build_is_refused_with_the_reason(
        self, quant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["build", "--gpu", "h100", "--quant", quant, "--engine", "sglang"]) == 3
        error = capsys.readouterr().err
        if quant == "int4":
            assert "allocates the rows of a gate and asserts the activation SiLU" in error
        else:
            assert "with its own server" in error
            assert "--quantization modelopt_fp8" in error


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT4 of `tiny` for vLLM on an A100; not to be changed."""
    out = tmp_path_factory.mktemp("vllm") / "bundle"
    workload = Workload(context=4096)
    make(prepare("tiny", "a100", "int4", workload, out, smooth=False, engine_name="vllm"))
    return out


class TestBundle:
    def test_it_is_whole(self, bundle: Path) -> None:
        checks = {check.name: check for check in verify(bundle).checks}
        assert all(check.ok for check in checks.values())
        assert "known to vLLM >=0.27.1,<0.28" in checks["engine_args.yaml"].detail
        assert "512 positions" in checks["golden outputs"].detail

    def test_its_checkpoint_is_in_the_layout_that_vllm_reads(self, bundle: Path) -> None:
        opened = Checkpoint.open(bundle / "checkpoint")
        assert opened.quantization is not None
        assert opened.quantization.layout == "compressed-tensors"
        card = (bundle / "checkpoint" / "README.md").read_text()
        assert "vllm serve ." in card
        planned = plan("tiny", gpu="a100", quant="int4", engine="vllm", context=4096)
        assert opened.bytes == planned.weights_bytes

    def test_there_are_no_kernels(self, bundle: Path) -> None:
        assert {path.name for path in (bundle / "engine").iterdir()} == {
            "engine.json", "engine_args.yaml", "golden.json",
        }  # fmt: skip

    def test_its_server_runs_vllm(self, bundle: Path) -> None:
        config = (bundle / "model_repository" / "tiny" / "config.pbtxt").read_text()
        assert 'string_value: "vllm"' in config
        deployment = (bundle / "k8s" / "deployment.yaml").read_text()
        assert "26.08-vllm-python-py3" in deployment
        assert "VLLM_CACHE_ROOT" in deployment
        assert "TLLM" not in deployment

    def test_its_code_is_trusted(self, bundle: Path) -> None:
        assert require_trusted(Bundle.open(bundle)) == ()

    def test_it_is_served_by_what_is_here(self, bundle: Path) -> None:
        assert chosen_executor(Bundle.open(bundle), "auto") == "reference"
        assert chosen_executor(Bundle.open(bundle), "vllm") == "vllm"

    def test_a_bundle_of_no_known_engine(self, built_copy: Callable[[str], Path]) -> None:
        out = built_copy("fp8")
        (out / "engine" / "engine.json").write_text('{"engine": "orca"}')
        with pytest.raises(BadInputError, match=r"engine\.json: unknown engine 'orca'"):
            chosen_executor(Bundle.open(out), "auto")

    def test_another_engine_makes_it_anew(self, bundle: Path) -> None:
        def actions(**options: Any) -> dict[str, str]:
            workload = Workload(context=4096)
            job = prepare("tiny", "a100", "int4", workload, bundle, smooth=False, **options)
            return {step.stage: step.action for step in dry_run(job).stages}

        assert set(actions(engine_name="vllm").values()) == {"keep"}
        assert set(actions().values()) == {"make"}

    def test_a_build_says_what_the_other_engine_offers(self, bundle: Path) -> None:
        job = prepare("tiny", "a100", "int4", Workload(context=4096), bundle, smooth=False)
        preview = dry_run(job)
        assert (preview.engine, len(preview.engines)) == ("tensorrt-llm", 2)
        assert preview.engine_hint is not None
        assert preview.engine_hint.endswith("--quant int4 --engine vllm")
        auto = prepare("tiny", "a100", "int4", Workload(context=4096), bundle, engine_name="auto")
        assert auto.plan.engine.name == "vllm"


class TestTakenOver:
    def test_integers_in_the_layout_of_vllm_stay_the_file(
        self, tiny_copy: Path, tmp_path: Path
    ) -> None:
        both(encoded(experts, packed), llm_compressor())(tiny_copy)
        job = prepare(str(tiny_copy), "a100", None, Workload(context=4096), tmp_path / "out",
                      engine_name="vllm")  # fmt: skip
        assert job.options.layout.key == "compressed-tensors"
        assert "taken over" in dry_run(job).stages[0].what
        assert not any("not the layout" in note for note in job.plan.notes)

    def test_those_of_the_other_layout_are_said_to_be_converted(self, tiny_copy: Path) -> None:
        both(encoded(experts, int4), modelopt("W4A16_AWQ", group_size=64))(tiny_copy)
        (note,) = [
            note
            for note in plan(str(tiny_copy), gpu="a100", engine="vllm", context=4096).notes
            if "layout" in note
        ]
        assert note.startswith("modelopt is not the layout that vLLM reads")
        assert "compressed-tensors's layout" in note

    def test_scales_that_bf16_does_not_hold_are_refused(
        self, tiny_copy: Path, tmp_path: Path
    ) -> None:
        both(encoded(experts, int4), modelopt("W4A16_AWQ", group_size=64))(tiny_copy)
        job = prepare(str(tiny_copy), "a100", None, Workload(context=4096), tmp_path / "out",
                      engine_name="vllm")  # fmt: skip
        with pytest.raises(RefusedError, match="rule: layout"):
            make(job)


def test_the_documents_name_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--gpu", "a100", "--quant", "int4", "--engine", "vllm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"]["name"] == "vllm"
    assert set(found["engine"]) >= {"name", "versions", "image", "args", "tested_on"}
    assert [offer["engine"] for offer in found["engines"]] == ["tensorrt-llm", "vllm"]
