"""Which model of a Triton server can be tested: one with the tensors of NVIDIA's `llmapi` model."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import BadInputError
from ...runtime import contract


def chosen_model(url: str, wanted: str | None, ready: Sequence[str]) -> str:
    """The model `wanted`, or the only one that is ready. Raises `BadInputError`."""
    listed = f"ready models: {', '.join(ready) or 'none'}"
    if wanted is not None:
        if wanted not in ready:
            raise BadInputError(
                f"{url} has no ready model {wanted!r}; {listed}. Choose one of them with --model"
            )
        return wanted
    if len(ready) != 1:
        raise BadInputError(
            f"cannot tell which model of {url} to test; {listed}. "
            + ("Choose one with --model" if ready else "Load one first")
        )
    return ready[0]


def require_llmapi(
    model: str, inputs: frozenset[str], outputs: frozenset[str], *, decoupled: bool
) -> None:
    """Raise `BadInputError` where `model` does not stream or lacks a tensor that a test needs."""
    missing = sorted(
        ({contract.TEXT_INPUT.name, contract.STREAMING.name, contract.MAX_TOKENS.name} - inputs)
        | ({contract.TEXT_OUTPUT.name} - outputs)
    )
    problem = f"has no tensor {', '.join(missing)}" if missing else ""
    if not decoupled:
        problem = problem or "does not stream (model_transaction_policy.decoupled is false)"
    if problem:
        raise BadInputError(
            f"{model} {problem}; a load test needs the streaming tensors of NVIDIA's llmapi model, "
            "as `nemo-deploy build` writes them"
        )
