"""What fits, by TensorRT-LLM's rules, and against what was published."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.engines.server_memory import activation_bytes
from nemotron_deploy.build.engines.serving_options import STEP_TOKENS
from nemotron_deploy.build.engines.tensorrt_llm.serving import CACHE_SHARE, graph_batches
from nemotron_deploy.build.planner.holdings import holdings
from nemotron_deploy.build.planner.memory import Memory, memory
from nemotron_deploy.model.architecture import Model, Role
from nemotron_deploy.model.catalog import gpu, gpus, known_model
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.build.nano import nano, planned

SUPER = "nemotron-3-super-120b-a12b"


def room(
    key: str = "h100",
    quant: str = "bf16",
    count: int = 1,
    version: str | None = None,
    **workload: Any,
) -> Memory:
    recipe = CONSERVATIVE[quant]
    held, target = holdings(nano(), recipe), engine("tensorrt-llm", version)
    serving = target.serving(recipe, Workload(**workload))
    rule = target.rule(gpu(key), QUANTS[quant], held.quantized)
    return memory(held, recipe, gpu(key), count, target, serving, rule)


def large() -> Model:
    model = known_model(SUPER)
    assert model is not None
    return model


@given(
    key=st.sampled_from(sorted(gpus())),
    quant=st.sampled_from(sorted(QUANTS)),
    count=st.sampled_from([1, 2, 4, 8]),
    context=st.integers(1, 2**20),
    version=st.sampled_from([None, "1.3.0rc24"]),
)
def test_memory_adds_up(
    key: str, quant: str, count: int, context: int, version: str | None
) -> None:
    found, target = room(key, quant, count, version), gpu(key)
    most = found.max_concurrency(context)
    for sequences in (0, 1, most):
        assert sum(found.terms(sequences).values()) == target.memory_bytes
    assert not found.cache.fits(most + 1, context)
    if most:
        assert found.cache.fits(most, context)
        assert found.cache.max_context(most) >= context
        assert most * (found.state + context * found.kv_per_token) <= found.cache.usable(most)
        assert found.cache.fits(most, found.cache.max_context(most))
        assert not found.cache.fits(most, found.cache.max_context(most) + 1)


def test_the_fraction_is_applied_as_the_version_does() -> None:
    """Of 1.2 the states lie outside the fraction, of 1.3's late candidates inside, and there is one
    more of them (docs/planner.md)."""
    stable, candidate = room(), room(version="1.3.0rc24")
    left, state = stable.left, stable.state
    outside, inside = stable.terms(32)["kv_cache"], candidate.terms(32)["kv_cache"]
    assert outside == int(CACHE_SHARE * (left - 32 * state))
    assert inside == int(CACHE_SHARE * left) - 33 * state
    assert stable.terms(32)["mamba_state"] == 32 * state
    assert candidate.terms(32)["mamba_state"] == 33 * state


@pytest.mark.parametrize("key", ["h100", "a100", "l40s"])
@pytest.mark.parametrize("quant", ["bf16", "fp8", "int8", "int4"])
def test_a_slot_for_every_sequence_of_a_batch(key: str, quant: str) -> None:
    """`max_batch_size` is the number of Mamba states: with their caches full, all still fit."""
    found = planned(key, quant)
    if not found.buildable:
        return
    batch, context = found.concurrency, found.context
    assert batch <= found.max_concurrency
    need = batch * (found.state_bytes_per_sequence + context * found.kv_bytes_per_token)
    assert need <= found.memory["mamba_state"] + found.memory["kv_cache"]


def test_weights_of_several_gpus() -> None:
    """Routers, norms and latent projections are whole on each: Super's 57 GiB on each of four,
    as a published log says (56.94), and not a quarter of all."""
    held = holdings(large(), CONSERVATIVE["bf16"])
    each = held.weight_bytes(4)
    assert each / 2**30 == pytest.approx(56.94, rel=0.005)
    loaded = held.stored_bytes - held.bytes_by_role[Role.MTP]
    assert each > loaded / 4 + 0.6e9
    assert held.weight_bytes(1) == loaded


def test_layers_of_mtp_have_no_scales_of_a_cache() -> None:
    """Two F32 an attention layer in FP8, and none for Super's prediction layer, which `quantize`
    gives none either."""
    model, recipe = large(), CONSERVATIVE["fp8"]
    plain = sum(g.count * sum(s.bytes for s in recipe.stored(g)) for g in model.tensors())
    assert holdings(model, recipe).stored_bytes - plain == 8 * model.layer_count("*")
    kv = holdings(model, CONSERVATIVE["bf16"]).kv_weight_bytes
    assert kv == model.layer_count("*") * 2 * (2 * 128 * 4096) * 2


def test_heads_are_copied_where_there_are_more_gpus() -> None:
    held = holdings(nano(), CONSERVATIVE["bf16"])
    assert [held.kv_bytes_per_token("BF16", n) for n in (1, 2, 4, 8)] == [6144, 3072, 3072, 3072]
    assert held.weight_bytes(4) > held.weight_bytes(1) / 4


@pytest.mark.parametrize(
    ("model", "quant", "gibibytes", "tolerance"),
    [
        # Loaded weights in vLLM's logs and Model-Optimizer's tutorials.
        ("nemotron-3-nano-30b-a3b", "bf16", 58.91, 0.005),
        ("nemotron-3-nano-30b-a3b", "fp8", 31.4, 0.02),
        ("nemotron-nano-9b-v2", "bf16", 16.5557, 0.001),
        ("nemotron-nano-12b-v2", "bf16", 22.9, 0.005),
    ],
)
def test_published_weights(model: str, quant: str, gibibytes: float, tolerance: float) -> None:
    found = known_model(model)
    assert found is not None
    held = holdings(found, CONSERVATIVE[quant])
    assert held.weight_bytes(1) / 2**30 == pytest.approx(gibibytes, rel=tolerance)


def test_memory_beside_weights_and_cache_agrees_with_a_published_log() -> None:
    """vLLM 0.12 on one H100, 16384 tokens a step: 90 % of the 79.11 GiB that a process sees, less
    58.91 of weights and 7.37 of caches, is 4.9 GiB for activations, workspace and runtime."""
    fixed = room(max_num_tokens=16384).fixed
    other = fixed["runtime"] + fixed["workspace"] + fixed["activations"]
    assert other / 2**30 == pytest.approx(0.9 * 79.11 - 58.91 - 7.37, rel=0.02)


@pytest.mark.parametrize(("quant", "count"), [("bf16", 1), ("fp8", 1), ("int4", 2)])
def test_a_worker_of_its_own_has_a_parent_with_a_context(quant: str, count: int) -> None:
    """TensorRT-LLM issue 10580: of an H100's 79.11 GiB, 592 MiB are another process's, and a worker
    with 67.16 GiB allocated and 6.90 GiB reserved besides takes 75.36."""
    fixed = room(quant=quant, count=count).fixed
    assert fixed["parent_process"] == 592 * 2**20
    assert room().fixed["runtime"] / 2**30 == pytest.approx(75.36 - 67.16 - 6.90, abs=0.01)


def test_a_worker_in_the_servers_process_has_none() -> None:
    assert "parent_process" not in room(quant="int4").fixed
    assert planned("h100", "int4").engine.env == {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}


def test_cuda_graphs_agree_with_published_logs() -> None:
    """The same log: 1.39 GiB for graphs of 51 batch sizes, captured in two ways each. TensorRT-LLM
    issue 10580: 121.83 MiB in private pools, for the 12 sizes of Nano's AutoDeploy configuration.
    """
    graph = room().fixed["cuda_graphs"] / len(graph_batches(64))
    assert 102 * graph / 2**30 == pytest.approx(1.39, rel=0.01)
    assert 12 * graph / 2**20 == pytest.approx(121.83, rel=0.4)


def test_graphs_are_counted_as_the_engine_captures_them() -> None:
    assert graph_batches(1) == (1,)
    assert graph_batches(8) == (1, 2, 4, 8)
    assert graph_batches(20) == (1, 2, 4, 8, 16, 20)
    assert graph_batches(64) == (1, 2, 4, *range(8, 65, 8))
    assert graph_batches(600)[-4:] == (128, 256, 512, 600)


def test_activations() -> None:
    """Sums of the tensors that TensorRT-LLM's modules hold over 8192 tokens."""
    bf16 = CONSERVATIVE["bf16"]
    assert activation_bytes(nano(), bf16, STEP_TOKENS, 1) / 2**20 == pytest.approx(931, rel=0.01)
    assert activation_bytes(large(), bf16, STEP_TOKENS, 1) / 2**20 == pytest.approx(1642, rel=0.01)


def test_a_million_tokens() -> None:
    found = planned("h100", "fp8", context=2**20)
    assert found.buildable
    assert found.max_concurrency >= 8
    assert found.max_context == 2**20, "as far as the model is published for"
    assert "262,144 positions" in found.notes[0]
    assert planned("h100", "fp8").max_context <= 2**20
