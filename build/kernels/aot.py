"""Compile every kernel a layer can launch, for one SM version, on a machine without a GPU.

Writes one cubin a variant and `kernels.json`, the index: for each variant what it is (kernel,
constants, operand types, warps, stages), its resources, its machine code's matrix instructions and
loads, and its digest; for all of them the SM version, the versions of triton and ptxas, the shapes,
and the digest of the sources they were compiled from. Nothing is written before every kernel has
passed the checks of `machine.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from . import machine
from .configs import SHARED_LIMIT, Tile
from .launch import OPTIONS, interpreting, operand_types
from .steps import Shape, Step, Steps, routed, shared

FORMAT: Final = 1
INDEX: Final = "kernels.json"
MOST_TOKENS: Final = 16_384
"""Token counts up to which every variant is compiled by default."""

_SOURCES: Final = ("configs.py", "kernel.py", "packing.py", "steps.py")


@dataclass(frozen=True, slots=True)
class Compiled:
    """One variant, compiled and checked."""

    step: Step
    types: tuple[str, ...]
    tile: Tile
    cubin: bytes
    symbol: str
    shared: int
    parameters: tuple[str, ...]
    machine: machine.Machine

    @property
    def file(self) -> str:
        """The cubin's name in a store."""
        return f"{self.symbol}-{hashlib.sha256(self.cubin).hexdigest()[:16]}.cubin"


def source_digest() -> str:
    """SHA-256 over the sources that decide what a cubin is and how it is launched."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def variant(step: Step, types: Iterable[str]) -> dict[str, Any]:
    """What tells a compiled kernel from all others; the same at build time and at launch."""
    return {
        "kernel": step.kernel,
        "constants": dict(step.constants),
        "types": list(types),
        "warps": step.warps,
        "stages": step.stages,
    }


def variants(
    routed_shape: Shape, shared_shape: Shape | None, sm: int, dtype: str, most_tokens: int
) -> Iterator[tuple[Step, tuple[str, ...], Tile]]:
    """Every variant that some number of tokens from 1 to `most_tokens` launches, once each."""
    seen = set()
    for plan in _plans(routed_shape, shared_shape, sm, most_tokens):
        for step in plan.steps:
            types = operand_types(step, plan, dtype)
            key = (step.kernel, step.constants, types, step.warps, step.stages)
            if key not in seen:
                seen.add(key)
                yield step, types, plan.tile


def _plans(shape: Shape, common: Shape | None, sm: int, most_tokens: int) -> Iterator[Steps]:
    for tokens in range(1, most_tokens + 1):
        yield routed(shape, tokens, sm)
        if common is not None:
            yield shared(common, tokens, sm)


def compile_step(step: Step, types: tuple[str, ...], tile: Tile, sm: int) -> Compiled:
    """One variant for `sm`, checked. Raises MachineError where its machine code falls short."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from . import kernel

    if interpreting():
        raise RuntimeError("unset TRITON_INTERPRET to compile: Triton is interpreting here")
    function = getattr(kernel, step.kernel)
    constants = dict(step.constants) | ({"PORTABLE": 0} if step.kernel == "grouped" else {})
    names = [name for name, _ in step.operands]
    signature = dict(zip(names, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    order = {name: place for place, name in enumerate(function.arg_names)}
    aligned = [["tt.divisibility", 16]]
    pointers = {(order[n],): aligned for n, t in zip(names, types, strict=True) if t[0] == "*"}
    source = ASTSource(
        function, {name: signature[name] for name in order}, constexprs=constants, attrs=pointers
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", sm, 32),
        options={**OPTIONS, "num_warps": step.warps, "num_stages": step.stages},
    )
    result = Compiled(
        step=step,
        types=types,
        tile=tile,
        cubin=compiled.asm["cubin"],
        symbol=compiled.metadata.name,
        shared=compiled.metadata.shared,
        parameters=_parameters(compiled.asm["ptx"]),
        machine=machine.inspect(compiled.asm["cubin"]),
    )
    _check(result, sm)
    return result


def build(
    directory: Path,
    routed_shape: Shape,
    sm: int,
    *,
    shared_shape: Shape | None = None,
    dtypes: tuple[str, ...] = ("bf16",),
    most_tokens: int = MOST_TOKENS,
) -> list[Compiled]:
    """Compile all variants for `sm` into `directory`, which is made; what it holds is replaced.

    The index is written last, so a directory without one is none. Raises ValueError for an SM
    version that is not known, MachineError where a kernel's machine code falls short.
    """
    if sm not in SHARED_LIMIT:
        raise ValueError(f"SM {sm} is none of {sorted(SHARED_LIMIT)}")
    # Given explicitly to every compilation; the default only makes triton 3.9 warn.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    compiled = [
        compile_step(step, types, tile, sm)
        for dtype in dtypes
        for step, types, tile in variants(routed_shape, shared_shape, sm, dtype, most_tokens)
    ]
    compiled = list({_key(item): item for item in compiled}.values())
    directory.mkdir(parents=True, exist_ok=True)
    (directory / INDEX).unlink(missing_ok=True)
    for old in directory.glob("*.cubin"):
        old.unlink()
    for item in compiled:
        (directory / item.file).write_bytes(item.cubin)
    index = {
        **_versions(),
        "format": FORMAT,
        "sm": sm,
        "source": source_digest(),
        "routed": asdict(routed_shape),
        "shared": asdict(shared_shape) if shared_shape else None,
        "dtypes": list(dtypes),
        "most_tokens": most_tokens,
        "run_on_a_gpu": False,
        "kernels": [_record(item) for item in compiled],
    }
    (directory / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    return compiled


def _key(item: Compiled) -> str:
    return json.dumps(variant(item.step, item.types), sort_keys=True)


def _record(item: Compiled) -> dict[str, Any]:
    report = item.machine
    return {
        **variant(item.step, item.types),
        "file": item.file,
        "sha256": hashlib.sha256(item.cubin).hexdigest(),
        "symbol": item.symbol,
        "parameters": list(item.parameters),
        "shared_bytes": item.shared,
        "static_shared_bytes": report.static_shared,
        "registers": report.registers,
        "local_bytes": report.local + report.stack,
        "matrix": list(report.matrix),
        "loop_load_widths": {str(width): times for width, times in sorted(report.loads.items())},
        "tuned": item.tile.tuned,
    }


def _check(item: Compiled, sm: int) -> None:
    found = machine.faults(item.machine, sm, item.shared)
    constants = dict(item.step.constants)
    if item.step.kernel == "grouped":
        found += machine.product_faults(
            item.machine, item.tile.matrix, constants, 32 * item.step.warps
        )
    # Triton appends two pointers to scratch memory, which these kernels do not use.
    if len(item.parameters) != len(item.types) + 2:
        found.append(f"{len(item.parameters)} parameters for {len(item.types)} operands")
    if found:
        raise machine.MachineError(
            f"{item.step.kernel} {constants} for SM {sm}: " + "; ".join(found)
        )


def _parameters(ptx: str) -> tuple[str, ...]:
    """The entry's parameter types, in order: u64 for pointers, u32 for numbers."""
    entry = ptx[ptx.index(".entry") :]
    return tuple(re.findall(r"\.param \.(\w+)", entry[: entry.index("{")]))


def _versions() -> dict[str, str]:
    import triton

    told = subprocess.run(
        [triton.knobs.nvidia.ptxas.path, "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {"triton": triton.__version__, "ptxas": told.split("release ")[-1].split(",")[0]}
