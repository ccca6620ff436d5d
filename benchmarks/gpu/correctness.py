"""Whether the kernels are right on this GPU: compiled here, stored, captured, sanitized."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, Final

from .problems import (
    SHARED_WIDTH,
    STORE,
    attempt,
    bad,
    chosen_error,
    cuda,
    device,
    dtypes,
    nano,
    open_carried_store,
    poisoned,
    random_experts,
    random_input,
    random_logits,
    random_router,
    routed_error,
    worst_token,
)

TOKENS: Final = (1, 2, 3, 4, 5, 8, 9, 16, 31, 64, 100, 256, 512, 1024, 2048, 4096)


def jit() -> dict[str, Any]:
    """Kernels compiled by the Triton that is here, on poisoned memory, against FP32."""
    import torch

    from nemotron_deploy.build import kernels

    shape = nano()
    torch.manual_seed(0)
    experts = random_experts(shape)
    one = random_experts(replace(shape, experts=1, top_k=1, width=2 * shape.width))
    tokens = TOKENS if cuda() else (1, 5)
    errors: dict[str, Any] = {}
    with poisoned():
        for name, dtype in dtypes().items():
            for count in tokens if name == "bf16" or not cuda() else (1, 4, 16, 64, 512, 2048):
                given = random_input(shape, count, dtype)
                errors[f"{name} routed {count}"] = attempt(
                    lambda given=given: routed_error(shape, experts, given)
                )
                errors[f"{name} chosen {count}"] = attempt(
                    lambda n=count, d=dtype: chosen_error(shape, experts, n, d)
                )
                errors[f"{name} shared {count}"] = attempt(
                    lambda given=given: worst_token(
                        kernels.shared(given[0], one),
                        kernels.reference_shared(given[0].float(), one),
                    )
                )
        errors |= _hard_cases(shape, experts)
        errors |= _other_cases("INT8", replace(shape, bits=8, scale_divisor=127))
        errors |= _other_cases("FP32 scales", replace(shape, scale_divisor=0))
    flags = {key: value for key, value in errors.items() if key.startswith("? ")}
    judged = {key: value for key, value in errors.items() if key not in flags}
    wrong = {key: value for key, value in judged.items() if bad(value)}
    worst = max((v for v in judged.values() if not isinstance(v, str)), default=None)
    return {
        "errors": judged,
        "observed": flags,
        "wrong": wrong,
        "ok": not wrong,
        "verdict": f"{len(judged)} cases, {len(wrong)} wrong, worst right {worst:.4f}",
    }


def _other_cases(what: str, shape: Any) -> dict[str, Any]:
    """The same kernel with another decode, or other scales."""
    experts = random_experts(shape)
    found: dict[str, Any] = {}
    for name, dtype in dtypes().items():
        for count in (1, 4, 16, 64, 512, 2048) if cuda() else (1, 5):
            given = random_input(shape, count, dtype)
            found[f"{name} {what} routed {count}"] = attempt(
                lambda given=given: routed_error(shape, experts, given)
            )
    return found


def _hard_cases(shape: Any, experts: Any) -> dict[str, Any]:
    import torch

    from nemotron_deploy.build import kernels

    dtype = next(iter(dtypes().values()))
    found: dict[str, Any] = {}
    many = 300 if cuda() else 20

    def routed(name: str, hidden: Any, ids: Any, weights: Any, first: int = 0) -> None:
        found[name] = attempt(lambda: routed_error(shape, experts, (hidden, ids, weights), first))

    hidden, ids, weights = random_input(shape, many, dtype)
    routed("all tokens to the same experts", hidden, ids[:1].expand(many, -1).contiguous(), weights)
    routed(
        "one expert in all of a token's places",
        hidden,
        ids[:, :1].expand(-1, shape.top_k).contiguous(),
        weights,
    )
    routed("ids of another rank", hidden, torch.where(ids % 3 == 0, -1, ids).int(), weights)
    routed("ids far out", hidden, torch.where(ids % 3 == 0, 1 << 30, ids).int(), weights)
    routed("second rank's numbers", hidden, (ids + 64).int(), weights, 64)
    wide = torch.randn(many, shape.hidden + 8, device=device()).to(dtype) / 4
    routed("hidden is no contiguous tensor", wide[:, 8:], ids, weights)
    routed(
        "hidden is a transposed tensor",
        (torch.randn(shape.hidden, many, device=device()) / 4).to(dtype).t(),
        ids,
        weights,
    )
    routed(
        "hidden is 1000 times larger" if dtype is torch.bfloat16 else "hidden as it is",
        hidden * (1000 if dtype is torch.bfloat16 else 1),
        ids,
        weights,
    )
    found["no tokens"] = attempt(
        lambda: float(kernels.moe(hidden[:0], ids[:0], weights[:0], experts).numel())
    )
    sick = hidden.clone()
    sick[1, 7] = float("nan")
    sick[2, 9] = float("inf")
    out = attempt(lambda: kernels.moe(sick, ids, weights, experts))
    if isinstance(out, str):
        found["a token that holds NaN"] = out
    else:
        clean = kernels.moe(hidden, ids, weights, experts)
        rest = [i for i in range(many) if i not in (1, 2)]
        found["NaN stays in its token"] = worst_token(out[rest], clean[rest])
        found["? a NaN comes out as"] = "NaN" if out[1].isnan().any() else "numbers"
        found["? an infinity comes out as"] = (
            "NaN" if out[2].isnan().any() else ("inf" if out[2].isinf().any() else "numbers")
        )
    return found


def cubin() -> dict[str, Any]:
    """The carried store through the project's own loader; nothing may be compiled here."""
    import torch

    from nemotron_deploy.build import kernels
    from nemotron_deploy.build.kernels import launch
    from nemotron_deploy.build.kernels.load import open_store

    if not cuda():
        return {"verdict": "needs CUDA", "ok": False}
    directory = STORE / f"sm_{launch.sm_of(0)}"
    if not directory.is_dir():
        return {"verdict": f"{directory} was not carried", "ok": False}
    index = json.loads((directory / "kernels.json").read_text())
    shape = nano()
    torch.manual_seed(1)
    experts = random_experts(shape)
    one = random_experts(replace(shape, experts=1, top_k=1, width=SHARED_WIDTH))
    torch.cuda.synchronize()
    at = time.perf_counter()
    store = open_store(directory)
    seconds = time.perf_counter() - at
    if store is None:
        return {"verdict": "open_store refused: see the log", "ok": False}
    compiled: list[str] = []
    launch._launch_compiled = lambda step, values: compiled.append(step.kernel)
    errors: dict[str, Any] = {}
    with poisoned():
        for count in TOKENS:
            given = random_input(shape, count, torch.bfloat16)
            errors[f"routed {count}"] = attempt(lambda g=given: routed_error(shape, experts, g))
            errors[f"chosen {count}"] = attempt(
                lambda n=count: chosen_error(shape, experts, n, torch.bfloat16)
            )
            errors[f"shared {count}"] = attempt(
                lambda g=given: worst_token(
                    kernels.shared(g[0], one), kernels.reference_shared(g[0].float(), one)
                )
            )
    wrong = {key: value for key, value in errors.items() if bad(value)}
    return {
        "triton": index["triton"],
        "ptxas": index["ptxas"],
        "kernels": len(store),
        "load_seconds": round(seconds, 3),
        "errors": errors,
        "wrong": wrong,
        "not_stored": compiled,
        "ok": not wrong and not compiled,
        "verdict": f"{len(store)} cubins of triton {index['triton']} (ptxas {index['ptxas']}) "
        f"loaded in {seconds:.2f} s, {len(errors)} cases, {len(wrong)} wrong, "
        f"{len(compiled)} not stored",
    }


def graph() -> dict[str, Any]:
    """Capture before any call (where cubins are loaded), replay, two streams, `torch.compile`."""
    import torch

    from nemotron_deploy.build import kernels

    if not cuda():
        return {"verdict": "needs CUDA", "ok": False}
    stored = attempt(open_carried_store)
    shape = nano()
    torch.manual_seed(2)
    experts = random_experts(shape)
    one = random_experts(replace(shape, experts=1, top_k=1, width=SHARED_WIDTH))
    found: dict[str, Any] = {"stored": stored}

    router = random_router(shape)

    def inputs(count: int, chosen: bool) -> tuple[Any, ...]:
        hidden, ids, weights = random_input(shape, count, torch.bfloat16)
        return (hidden, random_logits(shape, count)) if chosen else (hidden, ids, weights)

    def layer(hidden: Any, *choice: Any) -> Any:
        """With the choice given, or the logits to choose by."""
        if len(choice) == 1:
            return kernels.routed_moe(hidden, choice[0], router, experts)
        return kernels.moe(hidden, *choice, experts)

    def captured(count: int, chosen: bool) -> float:
        given = inputs(count, chosen)
        if stored is not True:
            layer(*given)
            kernels.shared(given[0], one)
        torch.cuda.synchronize()
        aux, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fork, join = torch.cuda.Event(), torch.cuda.Event()
            fork.record()
            routed = layer(*given)
            with torch.cuda.stream(aux):
                fork.wait()
                common = kernels.shared(given[0], one)
                join.record()
            join.wait()
            out = routed + common
        worst = 0.0
        for _ in range(3):
            other = inputs(count, chosen)
            for mine, new in zip(given, other, strict=True):
                mine.copy_(new)
            graph.replay()
            torch.cuda.synchronize()
            first = out.clone()
            graph.replay()
            torch.cuda.synchronize()
            eager = layer(*other) + kernels.shared(other[0], one)
            if not torch.equal(first, out):
                raise AssertionError("two replays differ")
            if not torch.equal(out, eager):
                worst = max(worst, worst_token(out, eager))
        return worst

    for count in (1, 2, 4, 8, 16, 32, 64, 128, 512):
        found[f"graph of {count}"] = attempt(lambda c=count: captured(c, False))
        found[f"graph of {count}, chosen"] = attempt(lambda c=count: captured(c, True))

    def compiled() -> float:
        @torch.compile(fullgraph=True, dynamic=True)
        def whole(hidden: Any, logits: Any) -> Any:
            return layer(hidden * 1.0, logits) + kernels.shared(hidden, one)

        worst = 0.0
        for count in (3, 17):
            given = inputs(count, True)
            eager = layer(*given) + kernels.shared(given[0], one)
            worst = max(worst, worst_token(whole(*given), eager))
        return worst

    found["torch.compile"] = attempt(compiled)

    def checked() -> float:
        given = random_input(shape, 3, torch.bfloat16)
        packed = (experts.up, experts.up_scale, experts.down, experts.down_scale)
        torch.library.opcheck(
            torch.ops.nemo_deploy.packed_moe,
            (*given, *packed, experts.group, experts.scale_divisor, 0),
            test_utils=("test_schema", "test_faketensor"),
        )
        return 0.0

    found["opcheck"] = attempt(checked)
    wrong = {k: v for k, v in found.items() if k != "stored" and bad(v, 1e-6)}
    return found | {
        "wrong": wrong,
        "ok": not wrong,
        "verdict": f"18 graphs, torch.compile, opcheck; cubins: {stored}; {len(wrong)} wrong",
    }


def sanitize() -> dict[str, Any]:
    """Under compute-sanitizer: small layers, every mode and tile family, and ids out of range."""
    import torch

    from nemotron_deploy.build import kernels as ours
    from nemotron_deploy.build.kernels import steps

    shape = steps.Shape(128, 192, 8, 2, 64, scale_divisor=7)
    experts = random_experts(shape)
    one = random_experts(replace(shape, experts=1, top_k=1))
    dtype = next(iter(dtypes().values()))
    router = random_router(shape)
    for tokens in (1, 5, 12, 40, 200):
        hidden, ids, weights = random_input(shape, tokens, dtype)
        ids[0, 0] = -1
        ours.moe(hidden, ids, weights, experts)
        ours.routed_moe(hidden, random_logits(shape, tokens), router, experts)
        ours.shared(hidden, one)
    if cuda():
        torch.cuda.synchronize()
    return {"verdict": "ran; errors, if any, are in the log", "ok": True}
