"""Triton's interpreter for this room's tests, and poisoned working memory.

TRITON_INTERPRET counts where triton is first imported, so it is set here, while tests are
collected. What needs the real compiler (`test_aot.py`) runs it in a process of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"

from nemotron_deploy.build.kernels import launch
from nemotron_deploy.build.kernels.interpreter import interpreting
from nemotron_deploy.tests.kernels import memory

POISON = 1 << 30
"""As a row number it is outside of every matrix; as an expert's number, of every layer."""


@pytest.fixture(autouse=True)
def _interpreted() -> None:
    assert interpreting(), "triton was imported before tests/kernels/conftest.py"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: a pool of threads on a busy machine costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """No launch reads or writes outside of its tensors or races with itself."""
    with memory.checked():
        yield


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working memory and outputs start as NaN, or as numbers that name nothing: what a kernel
    leaves unwritten and another one reads shows in the result."""

    def poisoned(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
        value = float("nan") if dtype.is_floating_point else POISON
        return torch.full(shape, value, dtype=dtype, device=like.device)

    monkeypatch.setattr(launch, "empty", poisoned)
