"""Compiled kernels kept between builds: reused when whole, compiled again when not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from nemotron_deploy.build.engines.tensorrt_llm import kernel_cache
from nemotron_deploy.build.kernels import store
from nemotron_deploy.build.kernels.steps import Shape

SHAPE = Shape(hidden=128, width=64, experts=4, top_k=2, group=64)
CUBINS = {"a.cubin": b"\x7fELF of one", "b.cubin": b"\x7fELF of another"}


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A store that is none of a compiler's: the cache looks at digests only."""
    folder = tmp_path / "compiled"
    folder.mkdir()
    records = []
    for name, cubin in CUBINS.items():
        (folder / name).write_bytes(cubin)
        records.append({"file": name, "sha256": hashlib.sha256(cubin).hexdigest()})
    (folder / store.INDEX).write_text(json.dumps({"kernels": records}))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_kept_is_restored_to_the_byte(compiled: Path, tmp_path: Path) -> None:
    kept, target = tmp_path / "cache" / "entry", tmp_path / "target"
    assert kernel_cache.restore(kept, target) == 0
    assert not target.exists()
    kernel_cache.keep(compiled, kept)
    assert kernel_cache.restore(kept, target) == len(CUBINS)
    assert content(target) == content(compiled)
    assert [path.name for path in kept.parent.iterdir()] == ["entry"], "nothing temporary is left"


@pytest.mark.parametrize("name", ["a.cubin", store.INDEX])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_entry_is_not_used_and_is_replaced(
    compiled: Path, tmp_path: Path, name: str, damage: str
) -> None:
    kept, target = tmp_path / "cache" / "entry", tmp_path / "target"
    kernel_cache.keep(compiled, kept)
    if damage == "changed":
        (kept / name).write_bytes(b"\x00" + (kept / name).read_bytes())
    else:
        (kept / name).unlink()
    assert kernel_cache.restore(kept, target) == 0
    assert not target.exists()
    kernel_cache.keep(compiled, kept)
    assert kernel_cache.restore(kept, target) == len(CUBINS)


def test_a_cache_that_cannot_be_written_is_no_error(compiled: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kernel_cache.keep(compiled, tmp_path / "file" / "entry")
    assert kernel_cache.restore(tmp_path / "file" / "entry", tmp_path / "target") == 0


def test_entries_differ_in_all_that_decides_machine_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Shape(hidden=256, width=64, experts=4, top_k=2, group=64)

    def entry(
        sources: str = "digest",
        sm: int = 90,
        shape: Shape = SHAPE,
        shared: tuple[Shape, ...] = (),
        tokens: int = 8192,
    ) -> Path:
        return kernel_cache.entry(tmp_path, sources, sm, shape, shared, tokens)

    entries = [
        entry(), entry(sources="other"), entry(sm=80), entry(shape=other), entry(shared=(other,)),
        entry(tokens=1),
    ]  # fmt: skip
    assert entry() == entries[0]
    monkeypatch.setattr("triton.__version__", "0.0")
    entries.append(entry())
    assert len(set(entries)) == len(entries)
