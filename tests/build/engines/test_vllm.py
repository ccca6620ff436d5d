"""vLLM: its arguments exist in its releases, its rules are what its source does, and its directory
holds both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.build.engines.registry import check, engine
from nemotron_deploy.build.engines.server_memory import server_bytes
from nemotron_deploy.build.engines.vllm.arguments import problems
from nemotron_deploy.build.engines.vllm.engine import FILES
from nemotron_deploy.build.engines.vllm.memory import blocks
from nemotron_deploy.build.engines.vllm.serving import capture_sizes
from nemotron_deploy.build.engines.vllm.support import RULES
from nemotron_deploy.build.planner.holdings import holdings
from nemotron_deploy.build.planner.plan import plan
from nemotron_deploy.core.errors import CheckFailedError
from nemotron_deploy.model.catalog import gpu, gpus, known_model
from nemotron_deploy.model.format_request import requested
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Plan, Workload
from nemotron_deploy.runtime.contract import VLLM_SETTINGS
from nemotron_deploy.scripts import make_vllm_arguments
from nemotron_deploy.tests.build.nano import nano

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = tuple(release.versions for release in RULES.releases)


def on_vllm(key: str, quant: str, version: str | None = None, **workload: Any) -> Plan:
    return plan(nano(), gpu(key), QUANTS[quant], Workload(**workload), engine("vllm", version))


class TestArguments:
    @pytest.mark.parametrize("version", [None, "0.24.0", "0.33.0"])
    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("quant", QUANTS)
    def test_those_of_a_plan_exist_in_its_release(
        self, quant: str, count: int, version: str | None
    ) -> None:
        found = on_vllm("h100", quant, version, gpus=count)
        assert found.buildable
        assert problems(found.engine.args, found.engine.versions) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"max_num_sequences": 8}, "max_num_sequences"),
            ({"max_num_seqs": "8"}, "max_num_seqs: '8' is not"),
            ({"gpu_memory_utilization": 1.5}, "1.5 is greater than the maximum of 1"),
            ({"gpu_memory_utilization": 0}, "0 is less than or equal to the minimum of 0"),
            ({"kv_cache_dtype": 8}, "kv_cache_dtype: 8 is not"),
            ({"mamba_ssm_cache_dtype": "int8"}, "mamba_ssm_cache_dtype: 'int8' is not one of"),
            ({"moe_backend": "marlinn"}, "moe_backend: 'marlinn' is not one of"),
        ],
    )
    @pytest.mark.parametrize("versions", VERSIONS)
    def test_wrong_ones_are_found(
        self, versions: str, change: dict[str, object], message: str
    ) -> None:
        good = on_vllm("h100", "int4").engine.args
        assert message in " ".join(problems({**good, **change}, versions))

    def test_an_argument_of_a_later_release_is_unknown_to_an_earlier_one(self) -> None:
        args = {"max_num_seqs": 8, "use_replayssm": False}
        stable, previous, _ = VERSIONS
        assert problems(args, stable) == []
        assert "use_replayssm" in " ".join(problems(args, previous))

    def test_what_vllm_does_not_do_for_this_model_is_off(self) -> None:
        found = on_vllm("h100", "bf16").engine
        assert found.args["enable_prefix_caching"] is False
        assert "trust_remote_code" not in found.args
        assert not {"model", "tokenizer"} & found.args.keys()
        assert found.env == VLLM_SETTINGS

    def test_several_gpus_split_experts_by_expert(self) -> None:
        found = on_vllm("h100", "fp8", gpus=4).engine.args
        assert (found["tensor_parallel_size"], found["enable_expert_parallel"]) == (4, True)
        assert on_vllm("h100", "fp8").engine.args["enable_expert_parallel"] is False


@pytest.mark.parametrize(
    ("sequences", "step", "sizes"),
    [
        (1, 8192, (1, 2)),
        (4, 8192, (1, 2, 4, 8)),
        (10, 8192, (1, 2, 4, 8, 16)),
        (10, 19, (1, 2, 4, 8, 16, 19)),
        (1000, 8192, (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))),
    ],
)
def test_graphs_are_captured_as_vllm_does_it_by_default(
    sequences: int, step: int, sizes: tuple[int, ...]
) -> None:
    assert capture_sizes(sequences, step) == sizes


class TestRules:
    """What was read in the sources of 0.24.0, 0.27.1 and 0.33.0."""

    @pytest.mark.parametrize(
        ("key", "quant", "version", "rule", "backend"),
        [
            ("a100", "fp8", None, "vllm-fp8-marlin", "vllm (Marlin, W8A16)"),
            ("a100", "fp8", "0.24.0", "vllm-fp8-sm89", "none"),
            ("h100", "fp8", "0.24.0", "vllm-fp8", "vllm"),
            ("a100", "int4", "0.24.0", "vllm-int4", "vllm (Marlin, W4A16)"),
            ("h100", "int8", None, "vllm-int8", "vllm (Marlin, W8A16)"),
            ("rtx-pro-6000", "int4", None, "vllm-int4", "vllm (Marlin, W4A16)"),
            ("a100", "nvfp4", None, "vllm-nvfp4-marlin", "vllm (Marlin, W4A16)"),
            ("b200", "nvfp4", None, "vllm-nvfp4-marlin", "vllm (Marlin, W4A16)"),
            ("h200", "bf16", None, "vllm-bf16", "vllm"),
        ],
    )
    def test_what_decides(
        self, key: str, quant: str, version: str | None, rule: str, backend: str
    ) -> None:
        found = on_vllm(key, quant, version)
        assert (found.rule, found.engine.backend) == (rule, backend)

    @pytest.mark.parametrize(
        ("version", "image"),
        [
            (None, "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3"),
            ("0.27.1", "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3"),
            ("0.24.0", "nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3"),
        ],
    )
    def test_the_image_carries_the_version(self, version: str | None, image: str) -> None:
        assert on_vllm("h100", "int4", version).engine.image == image

    def test_a_version_without_a_triton_image_needs_its_own(self) -> None:
        found = on_vllm("h100", "int4", "0.33.0")
        assert found.status == "needs"
        assert "no Triton image carries this version" in found.engine.needs[0]

    def test_nvfp4_inputs_avoid_the_experts_that_answered_wrongly(self) -> None:
        """vLLM issue 52308, on a B200."""
        kind = QUANTS["nvfp4"]
        inputs = replace(kind, recipe=kind.recipe.with_nvfp4_inputs())
        found = plan(nano(), gpu("b200"), inputs, Workload(), engine("vllm"))
        assert (found.rule, found.engine.args["moe_backend"]) == (
            "vllm-nvfp4-w4a4",
            "flashinfer_cutlass",
        )
        hopper = plan(nano(), gpu("h100"), inputs, Workload(), engine("vllm"))
        assert (hopper.rule, "moe_backend" in hopper.engine.args) == (
            "vllm-nvfp4-w4a4-marlin",
            False,
        )

    def test_integers_beside_floats_have_no_layout(self, tmp_path: Path) -> None:
        recipe = tmp_path / "mixed.yaml"
        recipe.write_text(
            "weights:\n"
            "  - {tensors: [experts], format: int4}\n"
            "  - {tensors: [mamba], format: fp8}\n"
        )
        kind = requested("int4", str(recipe)).for_model(nano())
        found = plan(nano(), gpu("h100"), kind, Workload(), engine("vllm"))
        assert (found.status, found.rule) == ("refused", "vllm-int4-mixed-layouts")
        assert "--recipe conservative" in found.alternatives

    @pytest.mark.parametrize(
        ("group", "count", "fits"), [(64, 2, True), (64, 4, False), (32, 4, True), (32, 8, False)]
    )
    def test_groups_must_divide_the_columns_of_each_gpu(
        self, group: int, count: int, fits: bool
    ) -> None:
        """3712 columns of the shared experts are 58 groups of 64: not divisible by 4."""
        kind = requested("int4", None, group).for_model(nano())
        found = plan(nano(), gpu("h100"), kind, Workload(gpus=count), engine("vllm"))
        assert found.supported is fits
        if not fits:
            assert found.rule == "expert-split"
            assert f"not whole groups of {group}" in found.reasons[0]

    def test_rows_with_one_scale_divide_over_any_number(self) -> None:
        kind = requested("int8", None, 0).for_model(nano())
        assert plan(nano(), gpu("h100"), kind, Workload(gpus=8), engine("vllm")).supported

    def test_it_says_who_has_run_it(self) -> None:
        found = on_vllm("a100", "int4").engine
        assert "has not run this on a GPU" in found.evidence
        assert "pull request 721" in found.evidence
        assert (found.proven, found.tested_on) == (True, ())

    def test_a_bf16_cache_replaces_the_scales_of_a_checkpoint(self) -> None:
        """TensorRT-LLM has no such setting."""
        assert on_vllm("h100", "fp8").engine.args["kv_cache_dtype"] == "fp8"
        found = on_vllm("h100", "fp8", kv_cache="bf16")
        assert found.engine.args["kv_cache_dtype"] == "bfloat16"


class TestBlocks:
    """States and KV cache in blocks of one size, as vLLM's logs have them."""

    def test_the_published_log_of_nano(self) -> None:
        """vLLM 0.12 on one H100, 16-bit state and KV cache: pages of 1072 tokens; 7.37 GiB are
        257,280 tokens, or 4.82 sequences of 262,144 (NVIDIA's cookbook)."""
        model = nano()
        found = blocks(model, model.state_bytes_per_sequence("BF16"), 6144)
        assert (found.tokens, found.kv_groups, found.state_groups) == (1072, 1, 4)
        count = int(7.37 * 2**30) // found.bytes
        groups = found.kv_groups + found.state_groups
        assert count // groups * found.tokens == 257_280
        assert count / found.of_sequence(262_144) == pytest.approx(4.82, abs=0.01)

    def test_the_published_number_of_nano_on_two_gpus(self) -> None:
        """1,298 sequences of 32,768 tokens on two B200 with about 146 GB free each, in 16 bits
        (vLLM 0.16, which knew no FP32 state by default)."""
        model = nano()
        state = model.state_bytes_per_sequence("BF16") // 2
        found = blocks(model, state, 3072)
        assert 146e9 / found.bytes / found.of_sequence(32_768) == pytest.approx(1298, rel=0.03)

    def test_the_published_slots_of_super(self) -> None:
        """524 on two H100, in the error with which vLLM 0.12 refuses more sequences; FP8 weights,
        and as for Nano's log 90 % of the memory, 16384 tokens a step and a state in 16 bits."""
        model = known_model("nemotron-3-super-120b-a12b")
        assert model is not None
        recipe = requested("fp8").for_model(model).recipe
        held, card = holdings(model, recipe), gpu("h100")
        left = int(0.9 * card.cuda_bytes) - held.weight_bytes(2)
        left -= sum(server_bytes(model, recipe, 2, 16384, 102).values())
        state = held.state_bytes_per_sequence("BF16", 2)
        found = blocks(model, state, held.kv_bytes_per_token("F8_E4M3", 2))
        assert left / found.bytes == pytest.approx(524, rel=0.08)

    def test_a_model_without_mamba_has_blocks_of_16_tokens(self) -> None:
        found = blocks(nano(), 0, 6144)
        assert (found.tokens, found.state_groups, found.of_sequence(33)) == (16, 0, 3)

    @given(
        key=st.sampled_from(sorted(gpus())),
        quant=st.sampled_from(sorted(QUANTS)),
        count=st.sampled_from([1, 2, 4, 8]),
        context=st.integers(1, 2**20),
    )
    def test_memory_adds_up(self, key: str, quant: str, count: int, context: int) -> None:
        found = on_vllm(key, quant, gpus=count, context=context)
        assert sum(found.memory.values()) == gpu(key).memory_bytes
        if not found.supported:
            return
        state = -(-found.state_bytes_per_sequence // count)
        heads = max(1, 2 // count)
        kv = found.kv_bytes_per_token * heads // 2
        need = found.max_concurrency * (state + context * kv)
        assert need <= found.free_bytes
        assert found.max_context >= context
        assert min(found.memory.values()) >= 0

    def test_what_lies_outside_the_utilization_is_reserve(self) -> None:
        found = on_vllm("h100", "fp8")
        assert found.memory["reserve"] >= 0.08 * gpu("h100").cuda_bytes
        page = blocks(nano(), found.state_bytes_per_sequence, found.kv_bytes_per_token).bytes
        assert found.memory["reserve"] - 0.08 * gpu("h100").cuda_bytes < page


def test_a_checkpoint_is_smaller_in_the_layout_that_vllm_reads() -> None:
    """Scales in 16 bits instead of 32, for every 64 integers."""
    ours = plan(nano(), gpu("h100"), QUANTS["int4"], Workload(), engine("tensorrt-llm"))
    theirs = on_vllm("h100", "int4")
    assert ours.weights_bytes - theirs.weights_bytes == pytest.approx(0.93e9, rel=0.02)


def test_marlin_is_estimated_as_it_was_measured_with_other_models() -> None:
    found = on_vllm("h100", "int4").estimate
    assert found is not None
    assert "Marlin's INT4 with other models" in " ".join(found.assumptions)


class TestDirectory:
    @pytest.mark.parametrize(("key", "quant"), [("a100", "int4"), ("h100", "fp8")])
    def test_what_is_written(
        self, tmp_path: Path, golden: Callable[[Path, str], None], key: str, quant: str
    ) -> None:
        found = on_vllm(key, quant)
        FILES.emit(tmp_path, found)
        for name in ("engine.json", "engine_args.yaml"):
            golden(GOLDEN / f"{key}-{quant}-vllm" / name, (tmp_path / name).read_text())
        assert all(each.ok for each in check(tmp_path))
        assert yaml.safe_load((tmp_path / "engine_args.yaml").read_text()) == found.engine.args
        record = json.loads((tmp_path / "engine.json").read_text())
        assert (record["engine"], record["vllm_versions"]) == ("vllm", ">=0.27.1,<0.28")

    @pytest.mark.parametrize("text", ["max_num_sequences: 3", "[1]", "a: [", ""])
    def test_a_damaged_one_fails_its_check(self, tmp_path: Path, text: str) -> None:
        FILES.emit(tmp_path, on_vllm("h100", "fp8"))
        (tmp_path / "engine_args.yaml").write_text(text)
        assert not all(each.ok for each in check(tmp_path))

    def test_an_argument_that_vllm_would_refuse_is_not_written(self, tmp_path: Path) -> None:
        found = on_vllm("h100", "fp8")
        wrong = replace(found, engine=replace(found.engine, args={"max_num_seq": 1}))
        with pytest.raises(CheckFailedError, match=r"engine_args: .*max_num_seq"):
            FILES.emit(tmp_path, wrong)
        assert not list(tmp_path.iterdir())


ARGUMENTS = """
class EngineArgs:
    model: str = ModelConfig.model
    max_num_seqs: int | None = None
    dtype: ModelDType = ModelConfig.dtype
    gpu_memory_utilization: float = CacheConfig.gpu_memory_utilization
    max_model_len: int = get_field(ModelConfig, "max_model_len")
    names: "list[str] | None" = None
    backend: Backend | type[Executor] = None
    hooks: Hooks = get_field(ModelConfig, "hooks")
    _internal: int = 0

class AsyncEngineArgs(EngineArgs):
    log: bool = False
"""
CONFIG = """
ModelDType = Literal["auto", "bfloat16"]
Backend = Literal["mp", "ray"]

class ModelConfig:
    model: str = "some/model"
    dtype: ModelDType | torch.dtype = "auto"
    max_model_len: int = Field(default=None, ge=-1)
    hooks: Hooks = Field(default_factory=Hooks)

class CacheConfig:
    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)
"""


def test_a_table_is_read_from_the_sources_without_running_them() -> None:
    sources = {"vllm/engine/arg_utils.py": ARGUMENTS, "vllm/config/all.py": CONFIG}
    found = make_vllm_arguments.table("9.9", sources)
    null = {"type": "null"}
    assert found["additionalProperties"] is False
    assert found["properties"] == {
        "backend": {},
        "dtype": {"enum": ["auto", "bfloat16"]},
        "gpu_memory_utilization": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "hooks": {},
        "log": {"type": "boolean"},
        "max_model_len": {"anyOf": [{"type": "integer", "minimum": -1}, null]},
        "max_num_seqs": {"anyOf": [{"type": "integer"}, null]},
        "model": {"type": "string"},
        "names": {"anyOf": [{"type": "array", "items": {"type": "string"}}, null]},
    }
