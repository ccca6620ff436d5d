"""The torch ops: schemas and fakes, the CPU's reference, what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from nemotron_deploy.build import kernels
from nemotron_deploy.build.kernels import launch, op
from nemotron_deploy.build.kernels.steps import Step
from nemotron_deploy.tests.kernels.layers import BOUND, Layer, activations, relative_error


@pytest.fixture
def compiled_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process whose Triton does not interpret: the CPU then takes the reference."""
    monkeypatch.setattr(op, "interpreting", lambda: False)


def problem(tokens: int = 5) -> tuple[Layer, Tensor, Tensor, Tensor]:
    layer = Layer.random(4, 128, 192, 64)
    ids = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)]).int()
    ids[0, 0] = -1
    return layer, activations(tokens, 128), ids, torch.rand(tokens, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_cpu_reference_agrees_with_float64(dtype: torch.dtype, compiled_mode: None) -> None:
    layer, hidden, ids, weights = problem()
    out = kernels.moe(hidden.to(dtype), ids, weights, layer.experts)
    assert out.dtype is dtype
    assert relative_error(out, layer.expected(hidden.to(dtype), ids, weights)) < BOUND


def test_bf16_under_the_interpreter_takes_the_reference() -> None:
    """Triton's interpreter is wrong in BF16 and says nothing."""
    layer, hidden, ids, weights = problem()
    out = kernels.moe(hidden.bfloat16(), ids, weights, layer.experts)
    assert relative_error(out, layer.expected(hidden.bfloat16(), ids, weights)) < BOUND


def test_fp16_under_the_interpreter_runs_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    run = launch._launch_compiled

    def recorded(step: Step, values: tuple[Tensor | int, ...]) -> None:
        launched.append(step.kernel)
        run(step, values)

    monkeypatch.setattr(launch, "_launch_compiled", recorded)
    layer, hidden, ids, weights = problem()
    kernels.moe(hidden, ids, weights, layer.experts)
    assert launched == ["place", "grouped", "grouped", "combine"]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_opcheck(tokens: int, compiled_mode: None) -> None:
    layer, hidden, ids, weights = problem(max(tokens, 1))
    packed = layer.experts
    tensors = (packed.up, packed.up_scale, packed.down, packed.down_scale)
    scales = packed.group, packed.scale_divisor
    opcheck(
        torch.ops.nemo_deploy.packed_moe,
        (hidden[:tokens], ids[:tokens], weights[:tokens], *tensors, *scales, 0),
    )
    router = (torch.rand(max(tokens, 1), 6)[:tokens], torch.rand(6), torch.ones(1))
    opcheck(
        torch.ops.nemo_deploy.packed_routed_moe,
        (hidden[:tokens], *router, *tensors, *scales, 2, 1),
    )
    opcheck(
        torch.ops.nemo_deploy.packed_shared,
        (hidden[:tokens], *(tensor[:1] for tensor in tensors), *scales),
    )


def test_the_layer_is_one_node_to_the_compiler(compiled_mode: None) -> None:
    layer, hidden, ids, weights = problem()
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def forward(hidden: Tensor) -> Tensor:
        return kernels.moe(hidden, ids, weights, layer.experts) * 2

    compiled = torch.compile(forward, backend=keep, fullgraph=True)
    assert torch.equal(compiled(hidden), forward(hidden))
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert [name for name in targets if "packed_moe" in name] == ["nemo_deploy.packed_moe"]


def test_no_tokens(compiled_mode: None) -> None:
    layer, hidden, ids, weights = problem()
    out = kernels.moe(hidden[:0], ids[:0], weights[:0], layer.experts)
    assert out.shape == (0, 128)


def test_what_does_not_fit_is_refused() -> None:
    layer, hidden, ids, weights = problem()
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        kernels.moe(hidden.float(), ids, weights, layer.experts)
    with pytest.raises(ValueError, match=r"packed for \[T, 128\]"):
        kernels.moe(hidden[:, :64], ids, weights, layer.experts)
    with pytest.raises(ValueError, match="int32 and float32"):
        kernels.moe(hidden, ids.long(), weights, layer.experts)
    with pytest.raises(ValueError, match="do not fit 5 tokens"):
        kernels.moe(hidden, ids[1:], weights[1:], layer.experts)
    with pytest.raises(ValueError, match="is one, and 4 were packed"):
        kernels.shared(hidden, layer.experts)
