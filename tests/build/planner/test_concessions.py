"""What a plan gives up before it refuses: what is needed to fit, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_deploy.api.build import prepare
from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.engines.tensorrt_llm import arguments, directory
from nemotron_deploy.build.planner.plan import plan
from nemotron_deploy.build.planner.verdict import Candidate, Judge
from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.model.catalog import gpu, gpus
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Plan, Serving, Workload
from nemotron_deploy.tests.build.nano import nano, planned
from nemotron_deploy.tests.build.planner.published import NANO, NINE, named

USUAL = Serving(8192, 64, 0.8, "BF16", "F32")
ORDER = (
    "max_num_tokens",
    "cuda_graph_config.max_batch_size",
    "kv_cache_config.free_gpu_memory_fraction",
    "kv_cache_config.dtype",
    "kv_cache_config.mamba_ssm_cache_dtype",
    "max_batch_size",
)


def given_up(found: Plan) -> dict[str, str]:
    return {concession.setting: concession.chosen for concession in found.concessions}


@pytest.mark.parametrize(
    ("model", "quant", "key", "context"),
    [
        # NVIDIA pruned 9B-v2 so that this fits one A10G of 22 GiB (arXiv 2508.14444).
        (NINE, "bf16", "A10G", 131_072),
        # vLLM serves INT4 of Nano on a 24 GB card.
        (NANO, "int4", "l4", 4096),
        (NANO, "int4", "l4", 32_768),
        (NANO, "int4", "rtx-3090", 4096),
        (NANO, "int4", "rtx-3090", 131_072),
        (NANO, "int4", "rtx-4090", 4096),
        (NANO, "int4", "rtx-4090", 131_072),
    ],
)
def test_cards_of_24_gb_serve_what_others_serve_on_them(
    model: str, quant: str, key: str, context: int
) -> None:
    found = plan(named(model), gpu(key), QUANTS[quant], Workload(context=context))
    assert found.supported
    assert found.max_context >= context
    assert sum(found.memory.values()) == gpu(key).memory_bytes
    assert min(found.memory.values()) >= 0
    need = found.state_bytes_per_sequence + context * found.kv_bytes_per_token
    assert need <= found.memory["mamba_state"] + found.memory["kv_cache"]
    assert arguments.problems(found.engine.args, found.engine.versions) == []


def test_a_bundle_is_configured_as_the_plan_says(tmp_path: Path) -> None:
    found = planned("l4", "int4", context=400_000)
    directory.FILES.emit(tmp_path, found)
    args = yaml.safe_load((tmp_path / "llm_args.yaml").read_text())
    assert args["max_num_tokens"] == found.serving.step_tokens < 8192
    cache = args["kv_cache_config"]
    assert cache["free_gpu_memory_fraction"] == found.serving.cache_share
    assert (found.serving.kv_dtype, cache["dtype"]) == ("F8_E4M3", "fp8")
    states = {"F32": "float32", "BF16": "bfloat16"}
    assert cache["mamba_ssm_cache_dtype"] == states[found.serving.state_dtype]
    assert args["cuda_graph_config"]["max_batch_size"] == args["max_batch_size"] == 1
    for concession in found.concessions:
        value: Any = args
        for key in concession.setting.split("."):
            value = value[key]
        assert str(value) == concession.chosen or concession.setting.startswith("cuda_graph")


@pytest.mark.parametrize("quant", ["bf16", "fp8", "int8", "int4"])
@pytest.mark.parametrize("key", ["h100", "h200", "a100", "l40s"])
def test_nothing_is_given_up_where_the_usual_configuration_fits(key: str, quant: str) -> None:
    found = planned(key, quant)
    if found.buildable:
        assert found.concessions == ()
        assert found.serving == replace(USUAL, kv_dtype=QUANTS[quant].recipe.kv_dtype)


@settings(max_examples=60)
@given(
    key=st.sampled_from(sorted(gpus())),
    quant=st.sampled_from(sorted(QUANTS)),
    size=st.builds(
        Workload,
        context=st.sampled_from([4096, 100_000, 300_000, 2**20]),
        concurrency=st.none() | st.sampled_from([1, 4, 100, 700]),
    ),
)
def test_only_what_is_needed_is_given_up(key: str, quant: str, size: Workload) -> None:
    """Each setting by itself, taken back, makes the model too large; and they come in order."""
    found = plan(nano(), gpu(key), QUANTS[quant], size)
    if not found.buildable:
        assert found.concessions == ()
        return
    judge = Judge(nano())
    candidate = Candidate(gpu(key), QUANTS[quant], size, engine())
    usual = engine().serving(QUANTS[quant].recipe, size)
    context = size.context or 0

    def fits(serving: Serving) -> bool:
        return judge.memory(candidate, serving).cache.fits(size.concurrency or 1, context)

    assert fits(found.serving)
    assert found.serving.step_tokens > found.concurrency
    assert bool(found.concessions) == (not fits(usual))
    for fallback in engine().fallbacks(size):
        if fallback.of(found.serving) != fallback.of(usual):
            assert not fits(fallback.applied(found.serving, fallback.of(usual)))
    places = [ORDER.index(concession.setting) for concession in found.concessions]
    assert places == sorted(places)
    for concession in found.concessions:
        assert concession.usual != concession.chosen
        assert concession.cost


def test_what_may_change_answers_comes_last() -> None:
    """The longer the sequence, the more is given up: first time, then the reserve, then the KV
    cache's type, then the state's."""
    refused = planned("l4", "int4", context=2**20)
    longest = int(refused.alternatives[0].removeprefix("--context "))
    contexts = (32_768, 100_000, 262_144, 400_000, longest)
    plans = [planned("l4", "int4", context=context) for context in contexts]
    assert all(found.buildable for found in plans)
    assert [found.serving.kv_dtype for found in plans] == ["BF16", "BF16", *["F8_E4M3"] * 3]
    assert [found.serving.state_dtype for found in plans] == [*["F32"] * 4, "BF16"]
    steps = [found.serving.step_tokens for found in plans]
    assert steps == sorted(steps, reverse=True)


def test_each_concession_says_what_it_costs() -> None:
    costs = {c.setting: c.cost for c in planned("l4", "int4", context=400_000).concessions}
    assert "instead of" in costs["max_num_tokens"]
    assert costs["max_num_tokens"].endswith("(estimate)")
    assert "3,072 instead of 6,144 bytes a token" in costs["kv_cache_config.dtype"]
    assert "not measured" in costs["kv_cache_config.dtype"]
    assert "another one ends" in costs["max_batch_size"]


def test_graphs_cost_time_where_batches_are_larger() -> None:
    """14 MiB each: what a plan of many sequences that only just fits gives up."""
    base = planned("rtx-4090", "int4", context=4096)
    for concurrency in range(base.max_concurrency + 1, 200):
        found = planned("rtx-4090", "int4", context=4096, concurrency=concurrency)
        costs = {c.setting: c.cost for c in found.concessions}
        if "cuda_graph_config.max_batch_size" in costs:
            assert (
                "more than 8 sequences takes about 25 ms longer"
                in (costs["cuda_graph_config.max_batch_size"])
            )
            assert found.engine.args["cuda_graph_config"]["max_batch_size"] == 8
            return
    pytest.fail("no number of sequences needs fewer graphs")


def test_a_refusal_says_what_was_tried() -> None:
    found = planned("a10", "int4", context=2**20)
    assert found.rule == "memory"
    assert found.concessions == ()
    assert found.reasons[0].endswith(
        "This holds even with max_num_tokens 512, cuda_graph_config.max_batch_size 8, "
        "kv_cache_config.free_gpu_memory_fraction 0.95, kv_cache_config.dtype fp8, "
        "kv_cache_config.mamba_ssm_cache_dtype bfloat16."
    )
    longest = int(found.alternatives[0].removeprefix("--context "))
    assert planned("a10", "int4", context=longest).buildable
    assert not planned("a10", "int4", context=longest + 1).buildable


def test_what_the_user_chooses_is_not_given_up() -> None:
    chosen: dict[str, Any] = {"max_num_tokens": 4096, "mamba_state": "float32", "kv_cache": "bf16"}
    found = planned("l4", "int4", context=40_000, **chosen)
    assert found.buildable
    assert found.serving == replace(USUAL, step_tokens=4096)
    assert given_up(found) == {"max_batch_size": "1"} or not found.concessions
    refused = planned("l4", "int4", context=262_144, **chosen)
    assert refused.rule == "memory"
    assert refused.serving.kv_dtype == "BF16"
    assert refused.serving.step_tokens == 4096


def test_choices_reach_the_engine_and_the_estimates() -> None:
    job = prepare(
        "tiny",
        "h100",
        "bf16",
        Workload(
            context=4096, max_num_tokens=1024, mamba_state="float16", kv_cache="fp8", concurrency=16
        ),
    )
    args = job.plan.engine.args
    assert args["max_num_tokens"] == 1024
    assert args["kv_cache_config"]["mamba_ssm_cache_dtype"] == "float16"
    assert args["kv_cache_config"]["dtype"] == "fp8"
    usual = planned("h100", "bf16")
    halved = planned("h100", "bf16", mamba_state="bfloat16", kv_cache="fp8")
    assert usual.kv_bytes_per_token == 2 * halved.kv_bytes_per_token
    assert 1.9 < usual.state_bytes_per_sequence / halved.state_bytes_per_sequence < 2
    assert usual.estimate
    assert halved.estimate
    assert halved.estimate.terms_ms["state"] < usual.estimate.terms_ms["state"]
    small = planned("h100", "bf16", max_num_tokens=512, isl=8192)
    large = planned("h100", "bf16", isl=8192)
    assert small.estimate
    assert large.estimate
    assert small.estimate.ttft_ms > large.estimate.ttft_ms
    assert small.memory["activations"] * 15 < large.memory["activations"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mamba_state": "fp8"}, "--mamba-state 'fp8': known are float32, bfloat16, float16"),
        ({"kv_cache": "int8"}, "--kv-cache 'int8': known are bf16, fp8"),
        ({"max_num_tokens": 32}, r"--max-num-tokens 32: .* give at least 33"),
        (
            {"max_num_tokens": 64, "concurrency": 64},
            r"--max-num-tokens 64: .*\(--concurrency 64\) and 32 tokens of a prompt; "
            "give at least 96",
        ),
    ],
)
def test_choices_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned("h100", "bf16", **options)


def test_a_small_step_leaves_few_sequences() -> None:
    found = planned("h100", "bf16", max_num_tokens=36)
    assert found.concurrency == found.serving.graph_batch == 4
    assert planned("h200", "fp8", context=64, concurrency=9000).serving.step_tokens == 9032


def test_the_command_line_takes_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["plan", "--gpu", "h100", "--quant", "fp8"]
    assert run([*base, "--mamba-state", "int8"]) == 2
    assert "known are float32, bfloat16, float16" in " ".join(capsys.readouterr().err.split())
    assert run([*base, "--kv-cache", "bf16"]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "rule kv-cache" in shown
    assert "FP8 checkpoints have scales for an FP8 KV cache" in shown
    assert "--quant bf16" in shown
    assert run([*base, "--max-num-tokens", "2048", "--mamba-state", "bfloat16"]) == 0
    assert "a sequence, BF16" in capsys.readouterr().out


def test_a_matrix_takes_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--matrix", "--gpu", "h100", "--kv-cache", "bf16", "--json"]) == 0
    cells = {cell["quant"]: cell["rule"] for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert (cells["bf16"], cells["fp8"], cells["int4"]) == ("bf16", "kv-cache", "int4-plugin")


def test_the_view_says_what_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--gpu", "A10G", "--quant", "bf16", "--checkpoint", NINE]
    assert run([*command, "--context", "131072"]) == 0
    assert "given up" in capsys.readouterr().out
    assert run(["plan", "--matrix", "--gpu", "l4"]) == 0
    assert "²" in capsys.readouterr().out


def test_a_machine_has_so_many_gpus() -> None:
    found = planned("dgx-spark", "fp8", gpus=2)
    assert (found.status, found.rule) == ("refused", "gpus")
    assert "1 x DGX Spark (GB10) at most, not 2" in found.reasons[0]
    assert found.alternatives == ("--gpus 1",)
    assert planned("gh200", "fp8", gpus=2).buildable
    assert planned("gh200", "fp8", gpus=4).rule == "gpus"


@pytest.mark.parametrize("key", ["gh200", "dgx-spark"])
def test_plans_say_how_shared_memory_is_counted(key: str) -> None:
    assert "memory" in planned(key, "fp8").notes[0]


@pytest.mark.parametrize("key", ["b200", "rtx-pro-6000", "rtx-5090", "dgx-spark"])
@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_there_are_no_kernels_for_blackwell(key: str, quant: str) -> None:
    found = planned(key, quant)
    assert (found.rule, found.status) == (f"{quant}-kernels", "refused")
    assert f"SM{found.sm}" in found.reasons[0]
    assert found.alternatives[-1].startswith("NVIDIA's own NVFP4 checkpoint")


@pytest.mark.parametrize(
    ("key", "listed"), [("h100", True), ("b200", True), ("l4", False), ("rtx-5090", False)]
)
def test_plans_say_which_gpus_the_engines_makers_list(key: str, listed: bool) -> None:
    found = planned(key, "bf16", gpus=8)
    assert ("makers do not list this GPU" in found.engine.evidence) is not listed
