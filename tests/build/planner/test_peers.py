"""Peers are planned for comparison, and never built."""

from __future__ import annotations

import pytest

from nemotron_deploy.build.planner.plan import plan, require_buildable
from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.model.catalog import gpu
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.peers import peer
from nemotron_deploy.model.spec import Workload


def test_qwen_has_the_published_numbers() -> None:
    found = peer("Qwen/Qwen3-30B-A3B")
    assert found is not None
    # 30.5 B parameters, 3.3 B active with the embedding table (Qwen's model card).
    assert found.parameters_total == 30_532_122_624
    embedding = found.vocab_size * found.hidden_size
    assert round((found.parameters_active + embedding) / 1e9, 2) == 3.35
    assert found.kv_bytes_per_token("BF16") == 48 * 2 * 4 * 128 * 2
    assert found.state_bytes_per_sequence("F32") == 0
    names = [name for group in found.tensors() for name in group.names()]
    assert len(names) == len(set(names)) == 48 * (9 + 3 * 128) + 3
    assert peer("qwen3-235b") is None


@pytest.mark.parametrize("quant", QUANTS)
def test_a_peer_is_compared_and_not_built(quant: str) -> None:
    found = peer("qwen3-30b-a3b")
    assert found is not None
    result = plan(found, gpu("h200"), QUANTS[quant], Workload())
    if quant == "nvfp4":
        assert result.refused
        return
    assert (result.status, result.rule) == ("compared", "peer")
    assert not result.supported
    assert not result.buildable
    assert result.estimate is not None
    with pytest.raises(RefusedError, match="for comparison only"):
        require_buildable(result)


def test_what_a_gpu_cannot_do_it_cannot_do_for_a_peer() -> None:
    found = peer("qwen3-30b-a3b")
    assert found is not None
    assert plan(found, gpu("a100"), QUANTS["fp8"], Workload()).rule == "fp8-sm89"
