"""INT4 and INT8 `tiny` through the plugin and a FAKE of TensorRT-LLM's classes, against the
reference."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nemotron_deploy.build.engines.tensorrt_llm.experts import emit_plugin, scale_divisor
from nemotron_deploy.build.plugin import experts, seam, settings, sharding
from nemotron_deploy.build.plugin.view import checkpoint_view
from nemotron_deploy.model import catalog
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.config import read_model
from nemotron_deploy.model.recipe import Recipe
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize import recording
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.quantize.variants import named
from nemotron_deploy.runtime.executors.loading import load_model

PROMPT = [27, 27, 15, 224, 27, 28, 15, 224, 28, 19, 17, 202]
"""A text without near ties, neither of two experts (scores 0.01 apart at least) nor of two next
tokens (logits 0.6 apart): BF16 and FP16 then differ from FP32 by their rounding alone."""

CHILD = Path(__file__).with_name("through.py")


@pytest.fixture(scope="session")
def checkpoint(int4_tiny: Path) -> Path:
    return int4_tiny


def emitted(folder: Path, recipe: Recipe, checkpoint: Path) -> Path:
    """The plugin for `tiny` as `checkpoint` holds it, in the engine directory `folder`."""
    config = json.loads((catalog.TINY / "config.json").read_text())
    emit_plugin(folder, read_model(config, "tiny"), recipe, scale_divisor(checkpoint, recipe))
    return folder


@pytest.fixture(scope="session")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emitted(tmp_path_factory.mktemp("engine"), CONSERVATIVE["int4"], checkpoint)


@dataclass(frozen=True)
class Case:
    """A format of `tiny`: its engine, its checkpoint, and the reference executor's logits."""

    engine: Path
    checkpoint: Path
    expected: torch.Tensor


@pytest.fixture(scope="session", params=["int4", "int8", "int8-row"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    (variant,) = named(request.param)
    source = Checkpoint.open(catalog.TINY)
    recipe = variant.for_model(source.model).recipe
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    quantize(source, recipe, checkpoint)
    model, _ = load_model(checkpoint)
    with torch.inference_mode():
        logits: torch.Tensor = model.float()(torch.tensor([PROMPT])).logits[0]
    engine = emitted(tmp_path_factory.mktemp("engine"), recipe, checkpoint)
    return Case(engine, checkpoint, logits)


def through(engine: Path, checkpoint: Path, action: str, argument: str = "", **options: str) -> Any:
    dtype = options.get("dtype", "bfloat16")
    environment = os.environ | {"TRITON_INTERPRET": options.get("interpret", "0")}
    done = subprocess.run(
        [sys.executable, str(CHILD), str(engine), str(checkpoint), dtype, action, argument],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "interpret", "bound"), [("float16", "1", 0.01), ("bfloat16", "0", 0.02)]
)
def test_logits_are_the_reference_executors(
    case: Case, dtype: str, interpret: str, bound: float
) -> None:
    """FP16 through the kernels in Triton's interpreter, BF16 through the ops' reference."""
    result = through(
        case.engine, case.checkpoint, "logits", json.dumps(PROMPT), dtype=dtype, interpret=interpret
    )
    assert result["interpreted"] is (interpret == "1")
    logits = torch.tensor(result["logits"])
    assert (logits - case.expected).norm() / case.expected.norm() < bound
    assert (logits.argmax(-1) == case.expected.argmax(-1)).all()
    # Packed weights and scales of up and down, in each of three layers: nothing in BF16.
    assert result["expert_parameters"] == 3 * 4


def test_kernels_are_tried_on_the_weights_before_they_serve(case: Case) -> None:
    """Under the interpreter, as on a GPU: a scale that is 2 % off somewhere is not rounding."""
    found = through(case.engine, case.checkpoint, "check", "1.02", dtype="float16", interpret="1")
    assert found[:2] == [None, None]
    assert [result["error"] for result in found[2:]] == ["KernelError", "KernelError"]
    assert "model.layers.1.mixer.experts: the INT" in found[2]["message"]
    assert "kernels are off by" in found[2]["message"]
    assert "each expert by itself" in found[2]["message"]


def test_two_ranks_add_up_to_one(case: Case) -> None:
    assert through(case.engine, case.checkpoint, "ranks") < 0.01


class Nowhere:
    """A routing that is not asked."""

    def apply(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def test_weights_of_another_format_are_refused() -> None:
    layer = experts.RoutedExperts(
        routing=Nowhere(), experts=2, hidden=128, width=64, group=64, bits=4, scale_divisor=0,
        top_k=1, rank=0, ranks=1, layer=3,
    )  # fmt: skip
    weights = {
        f"{expert}.{name}.{suffix}": tensor
        for expert in range(2)
        for name, (rows, columns) in {"w1": (64, 128), "w2": (128, 64)}.items()
        for suffix, tensor in {
            "weight": torch.ones(rows, columns, dtype=torch.int8),
            "weight_scale": torch.ones(rows, columns // 64),
        }.items()
    }
    message = (
        r"layers.3.mixer.experts: expert 0 is INT8, 64 wide on 128 in groups of 64; INT4, 64 on 128"
    )
    with pytest.raises(experts.WeightError, match=message):
        layer.load_weights([weights])


def test_our_kernel_chooses_the_experts_as_upstream_does(engine: Path, checkpoint: Path) -> None:
    ours = through(engine, checkpoint, "router", dtype="float16", interpret="1")
    assert ours["ours"] == [True] * 3
    assert ours["said"] == []
    assert ours["difference"] < 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("routing.routing_impl.topk_group = 4", "experts are chosen in 1 groups"),
        ("del routing.routing_impl.routed_scaling_factor", "not the routing method that it knows"),
        ("routing.apply = lambda l: (i := l.topk(2).indices.int(), i / 2)", "other experts"),
        (
            "apply = routing.apply; routing.apply = lambda l: (apply(l)[0], apply(l)[1] * 1.01)",
            "weighs the experts of 1 tokens otherwise",
        ),
    ],
)
def test_upstream_goes_on_choosing_where_it_chooses_otherwise(
    engine: Path, checkpoint: Path, change: str, reason: str
) -> None:
    result = through(engine, checkpoint, "router", change)
    assert result["ours"] == [False] * 3
    (line,) = result["said"]
    assert "TensorRT-LLM chooses the experts" in line
    assert reason in line


REFUSED = [
    ("without", "layers.1.mixer.experts.3.up_proj.weight_scale", "WeightError",
     "model.layers.1.mixer.experts.3.up_proj.weight_scale is missing"),
    ("without", "layers.4.mixer.shared_experts.down_proj.weight", "WeightError",
     "model.layers.4.mixer.shared_experts.down_proj.weight is missing"),
    ("narrow", "layers.1.mixer.experts.0.up_proj.weight", "WeightError",
     "model.layers.1.mixer.experts: expert 0"),
    ("narrow", "layers.1.mixer.shared_experts.up_proj.weight", "WeightError",
     "shared_experts.up_proj.weight is [128, 64]; [128, 128] is expected"),
    ("mapping", '{"enable_attention_dp": true}', "UnsupportedError", "attention data parallelism"),
    ("mapping", '{"tp_size": 2}', "UnsupportedError", "moe_expert_parallel_size to 2"),
    ("mapping", '{"tp_size": 8, "moe_ep_size": 8}', "ShardError", "too few for 8 GPUs"),
]  # fmt: skip


def test_what_does_not_fit_is_refused(engine: Path, checkpoint: Path) -> None:
    asked = [case[:2] for case in REFUSED]
    results = through(engine, checkpoint, "refusals", json.dumps(asked))
    for result, (_, _, error, message) in zip(results, REFUSED, strict=True):
        assert result["error"] == error
        assert message in result["message"]
        assert "\n" not in result["message"]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake of upstream's module, free to be changed; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(CHILD.parent / "fakes"))
    yield importlib.import_module("tensorrt_llm._torch.models.modeling_nemotron_h")
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def test_the_upstream_that_we_read_is_taken(upstream: Any) -> None:
    seam.require(upstream, "1.2.1")


def test_a_later_upstream_that_can_load_in_parts_is_taken(upstream: Any) -> None:
    def load_weights(
        self: Any, weights: Any, weight_mapper: Any, allow_partial_loading: bool = False
    ) -> None:
        pass

    upstream.NemotronHForCausalLM.load_weights = load_weights
    seam.require(upstream, "1.2.1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del upstream.create_moe", "modeling_nemotron_h has no create_moe"),
        ("upstream.create_moe = lambda layer, config: None", "create_moe takes no routing_method"),
        ("upstream.NemotronHMOE.__init__ = "
         "lambda self, model_config, layer_idx, aux_stream_dict: None",
         "NemotronHMOE no longer makes its experts with create_moe, MLP"),
        ("upstream.MLP.__init__ = lambda self, hidden_size, config: 0",
         "MLP takes no intermediate_size, bias"),
        ("upstream.NemotronHForCausalLM.load_weights = lambda self, weights: None",
         "load_weights takes no weight_mapper"),
        ("upstream.NemotronHForCausalLM.load_weights = "
         "lambda self, weights, weight_mapper, mapping: None",
         "load_weights requires mapping"),
    ],
)  # fmt: skip
def test_another_upstream_is_refused_in_one_line(upstream: Any, change: str, message: str) -> None:
    exec(change, {"upstream": upstream})
    with pytest.raises(seam.SeamError) as told:
        seam.require(upstream, "1.4.0")
    assert message in str(told.value)
    assert "written against TensorRT-LLM >=1.2.1,<1.3, and 1.4.0 differs" in str(told.value)
    assert "\n" not in str(told.value)


def test_names_are_bound_back_after_an_error(upstream: Any) -> None:
    before = upstream.create_moe
    with pytest.raises(RuntimeError), seam.rebound(upstream, create_moe=None):
        assert upstream.create_moe is None
        raise RuntimeError
    assert upstream.create_moe is before


def test_an_engine_without_its_format_is_refused(
    tmp_path: Path, checkpoint: Path, engine: Path
) -> None:
    package = tmp_path / "plugin" / settings.PACKAGE
    package.parent.mkdir()
    shutil.copytree(engine / "plugin" / settings.PACKAGE, package)
    (package / settings.FILE).write_text('{"group_size": 64}')
    result = through(tmp_path, checkpoint, "logits", "[1]")
    assert result["error"] == "SettingsError"
    assert "build the engine again" in result["message"]


def test_the_view_hides_that_it_is_quantized(checkpoint: Path, tmp_path: Path) -> None:
    view = checkpoint_view(checkpoint, tmp_path)
    assert "quantization_config" not in json.loads((view / "config.json").read_text())
    assert not (view / "hf_quant_config.json").exists()
    names = {path.name for path in checkpoint.iterdir()} - {"hf_quant_config.json"}
    assert {path.name for path in view.iterdir()} == names
    assert (view / "model.safetensors").resolve() == (checkpoint / "model.safetensors").resolve()


def test_experts_divide_evenly_or_not_at_all() -> None:
    assert [sharding.experts_of(128, rank, 4) for rank in range(4)] == [
        range(start, start + 32) for start in (0, 32, 64, 96)
    ]
    with pytest.raises(sharding.ShardError, match="12 experts do not divide over 8 GPUs; 1, 2, 4"):
        sharding.experts_of(12, 0, 8)


@given(st.integers(1, 200), st.sampled_from((32, 64, 128)), st.sampled_from((1, 2, 4, 8)))
def test_shared_columns_are_whole_groups_and_cover_the_width(
    groups: int, group: int, ranks: int
) -> None:
    width = groups * group
    if groups < ranks:
        with pytest.raises(sharding.ShardError, match="too few"):
            for rank in range(ranks):
                sharding.columns_of(width, group, rank, ranks)
        return
    parts = [sharding.columns_of(width, group, rank, ranks) for rank in range(ranks)]
    assert [column for part in parts for column in part] == list(range(width))
    assert all(len(part) % group == 0 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= group


def test_rows_with_one_scale_are_split_as_groups_of_the_kernels_width_are() -> None:
    for rank in range(4):
        assert sharding.columns_of(3712, 0, rank, 4) == sharding.columns_of(3712, 64, rank, 4)


def test_nanos_shared_expert_on_four_ranks() -> None:
    parts = [len(sharding.columns_of(3712, 64, rank, 4)) for rank in range(4)]
    assert parts == [896, 960, 896, 960]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, engine: Path) -> Path:
    """What the served model reads of an INT4 bundle, golden outputs included."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(checkpoint, folder / "checkpoint")
    shutil.copytree(engine, folder / "engine")
    record = {"plugin": settings.PACKAGE, "trtllm_versions": ">=1.2.1,<1.3", "gpus": 1, "sm": 90}
    (folder / "engine" / "engine.json").write_text(json.dumps(record))
    recorded = recording.record(Checkpoint.open(checkpoint), "digest")
    recorded.write(folder / "engine" / "golden.json")
    return folder


def test_the_production_executor_keeps_the_golden_outputs(bundle: Path) -> None:
    """Executor, plugin, kernels and golden outputs together; TensorRT-LLM alone is a fake."""
    found = through(bundle / "engine", bundle / "checkpoint", "prove", dtype="bfloat16")
    assert found["action"] == "checked"
    assert found["ok"], found
    assert found["comparison"]["positions"] == 512
    # Decoding goes its own way where two tokens are nearly as likely: hence more than one round.
    assert 4 <= found["rounds"] < 20


def test_a_wrong_scale_in_the_checkpoint_keeps_it_from_going_ready(
    bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    shard = broken / "checkpoint" / "model.safetensors"
    tensors = load_file(shard)
    scales = {name: t for name, t in tensors.items() if name.endswith("weight_scale")}
    wrong = {name: (t * 7 * 1.02).bfloat16().float() / 7 for name, t in scales.items()}
    save_file(tensors | wrong, shard)
    found = through(broken / "engine", broken / "checkpoint", "prove", dtype="bfloat16")
    assert not found["ok"]
    assert any(fault.startswith("gain +") for fault in found["faults"])
