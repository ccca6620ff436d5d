"""The bytes of quantized checkpoints: they change only together with `ENCODING`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nemotron_deploy.core.files import list_files, sha256
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import AGGRESSIVE, CONSERVATIVE
from nemotron_deploy.model.weight_format import ROW
from nemotron_deploy.quantize.encoding import ENCODING
from nemotron_deploy.quantize.layouts import LAYOUTS
from nemotron_deploy.quantize.smooth import Folding
from nemotron_deploy.quantize.stream import quantize

GOLDEN = Path(__file__).parent / "golden" / "encoding.json"

TINY_CHECKPOINT = Checkpoint.open(TINY)


def folding() -> Folding:
    """Scales to fold as a search gives them; the search itself is not the same to the bit on all
    processors, so given ones take its place."""
    names = [name for name in TINY_CHECKPOINT.tensors if name.endswith(".up_proj.weight")]
    widths = {name: TINY_CHECKPOINT.tensors[name].shape[1] for name in names}
    return Folding(
        inputs={name: 1 + torch.arange(width) % 7 / 8 for name, width in widths.items()},
    )


def amax() -> dict[str, float]:
    """Ranges of activations as a calibration measures them."""
    groups = {name: group for group in TINY_CHECKPOINT.model.tensors() for name in group.names()}
    ranges = dict.fromkeys(groups, 3.0)
    for name, group in groups.items():
        if group.makes_kv:
            prefix = name.rpartition(".")[0]
            ranges |= {f"{prefix}.{side}_scale": 2.0 for side in ("k", "v")}
    return ranges


CASES: dict[str, dict[str, Any]] = {
    "int4": {"recipe": CONSERVATIVE["int4"]},
    "int4 group 32": {"recipe": CONSERVATIVE["int4"].with_group_size(32)},
    "int4 folded": {"recipe": CONSERVATIVE["int4"], "folding": folding()},
    "int4 compressed-tensors": {
        "recipe": CONSERVATIVE["int4"],
        "layout": LAYOUTS["compressed-tensors"],
    },
    "int8": {"recipe": CONSERVATIVE["int8"]},
    "int8 rows": {"recipe": CONSERVATIVE["int8"].with_group_size(ROW)},
    "int8 compressed-tensors": {
        "recipe": CONSERVATIVE["int8"],
        "layout": LAYOUTS["compressed-tensors"],
    },
    "fp8": {"recipe": CONSERVATIVE["fp8"], "activation_amax": amax()},
    "fp8 aggressive": {
        "recipe": AGGRESSIVE["fp8"],
        "activation_amax": amax(),
    },
    "nvfp4": {"recipe": CONSERVATIVE["nvfp4"]},
    "bf16": {"recipe": CONSERVATIVE["bf16"]},
}


def digests(out: Path, case: dict[str, Any]) -> dict[str, str]:
    out.mkdir()
    quantize(TINY_CHECKPOINT, case["recipe"], out, **{k: case[k] for k in case if k != "recipe"})
    return {name: sha256(out / name) for name in list_files(out, out)}


def recorded() -> dict[str, Any]:
    """The golden file; empty where UPDATE_GOLDEN=1 is set and it is of another encoding. Without
    another `ENCODING` nothing in it is rewritten."""
    golden: dict[str, Any] = json.loads(GOLDEN.read_text())
    if os.environ.get("UPDATE_GOLDEN") == "1" and golden["encoding"] != ENCODING:
        return {"encoding": ENCODING, "files": {}}
    return golden


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_of_the_present_encoding(tmp_path: Path, name: str) -> None:
    written, golden = digests(tmp_path / "out", CASES[name]), recorded()
    if os.environ.get("UPDATE_GOLDEN") == "1" and name not in golden["files"]:
        golden["files"][name] = written
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert golden["encoding"] == ENCODING, "rewrite the goldens (UPDATE_GOLDEN=1)"
    assert golden["files"][name] == written, (
        "quantizing tiny gives other bytes than before: raise ENCODING and rewrite the goldens "
        "(UPDATE_GOLDEN=1)"
    )


def test_every_case_is_recorded() -> None:
    assert set(json.loads(GOLDEN.read_text())["files"]) == set(CASES)
