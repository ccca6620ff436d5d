"""Compile every kernel a layer can launch, for one SM version, on a machine without a GPU.

Writes one cubin a variant and `kernels.json`, the index: for each variant what it is (kernel,
constants, operand types, warps, stages), its resources, its machine code's matrix instructions and
loads, and its digest; for all of them the SM version, the versions of triton and of the assembler
that ran, the oldest driver that loads them, the shapes, and the digest of the sources they were
compiled from. Nothing is written before every kernel has
passed the checks of `machine.py`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from . import machine
from .configs import OPTIONS, SHARED_LIMIT, Tile
from .interpreter import interpreting
from .source import FORMAT, source_digest
from .steps import Shape, Step, Steps, operand_types, routed, shared
from .store import INDEX, identity, variant

LOWEST_DRIVER: Final = {12: "525.60.13", 13: "580.65.06"}
"""The oldest Linux driver that loads machine code of a CUDA major version (CUDA release notes,
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal to get when the parent dies."""

_BLACKWELL: Final = 100
"""The SM version from which CUDA 12's assembler does not know the GPU well enough."""

MOST_TOKENS: Final = 16_384
"""Token counts up to which every variant is compiled by default."""


Variant = tuple[Step, tuple[str, ...], Tile]
"""What is compiled: a launch, its operands' types, and the tile it was made from."""


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


def variants(
    routed_shape: Shape,
    shared_shapes: Sequence[Shape],
    sm: int,
    dtypes: Sequence[str],
    most_tokens: int,
) -> Iterator[Variant]:
    """Every variant that some number of tokens from 1 to `most_tokens` launches, once each.

    `shared_shapes`: those of the shared experts, one for each width that a rank may hold.
    """
    seen = set()
    for plan in _plans(routed_shape, shared_shapes, sm, most_tokens):
        for step, dtype in product(plan.steps, dtypes):
            types = operand_types(step, plan, dtype)
            key = identity(step, types)
            if key not in seen:
                seen.add(key)
                yield step, types, plan.tile


def _plans(shape: Shape, common: Sequence[Shape], sm: int, most_tokens: int) -> Iterator[Steps]:
    given = replace(shape, routes=0)
    for tokens in range(1, most_tokens + 1):
        yield routed(shape, tokens, sm)
        yield routed(given, tokens, sm)
        for other in common:
            yield shared(other, tokens, sm)


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
        options={
            **OPTIONS,
            "num_warps": step.warps,
            "num_stages": step.stages,
            "launch_pdl": step.overlaps,
        },
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
    _check(result, sm, compiled.asm["ptx"])
    return result


def build(
    directory: Path,
    routed_shape: Shape,
    sm: int,
    *,
    shared_shapes: Sequence[Shape] = (),
    dtypes: Sequence[str] = ("bf16",),
    most_tokens: int = MOST_TOKENS,
    workers: int = 0,
    on_compiled: Callable[[int, int], None] | None = None,
) -> list[Compiled]:
    """Compile all variants for `sm` into `directory`, which is made; what it holds is replaced.

    `workers` processes do it, which do not interpret whatever TRITON_INTERPRET says here; with 0 it
    is done in this one. `on_compiled` is told how many of how many are done. The index is written
    last, so a directory without one is none. Raises ValueError for an SM version that is not known,
    MachineError where a kernel's machine code falls short.
    """
    if sm not in SHARED_LIMIT:
        raise ValueError(f"SM {sm} is none of {sorted(SHARED_LIMIT)}")
    wanted = list(variants(routed_shape, shared_shapes, sm, dtypes, most_tokens))
    compiled = []
    for item in _compile_all(wanted, sm, workers):
        compiled.append(item)
        if on_compiled:
            on_compiled(len(compiled), len(wanted))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / INDEX).unlink(missing_ok=True)
    for old in directory.glob("*.cubin"):
        old.unlink()
    for item in compiled:
        (directory / item.file).write_bytes(item.cubin)
    index = {
        **versions(sm),
        "format": FORMAT,
        "sm": sm,
        "source": source_digest(),
        "routed": asdict(routed_shape),
        "shared": [asdict(shape) for shape in shared_shapes],
        "dtypes": list(dtypes),
        "most_tokens": most_tokens,
        "run_on_a_gpu": False,
        "kernels": [_record(item) for item in compiled],
    }
    (directory / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    return compiled


def _compile_all(wanted: Sequence[Variant], sm: int, workers: int) -> Iterator[Compiled]:
    """In the order of `wanted`."""
    if not workers:
        _use_compiler(sm)
        yield from (compile_step(*variant, sm) for variant in wanted)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(), sm)) as pool:
        jobs = [pool.submit(compile_step, *variant, sm) for variant in wanted]
        try:
            yield from (job.result() for job in jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(parent: int, sm: int) -> None:
    """In a worker process: end with `parent`, whatever ends that (a worker waits for work for ever
    otherwise), and compile for `sm`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
    _use_compiler(sm)


def _use_compiler(sm: int) -> None:
    """Set what triton reads from the environment. FP fusion is given with every compilation; its
    default moves, and triton 3.9 warns where the variable is not set. Below SM 100 the assembler is
    CUDA 12's: triton 3.9 takes CUDA 13's, and what that makes needs a driver of CUDA 13."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_PTXAS_BLACKWELL_PATH"] = _assembler(sm)


def _assembler(sm: int) -> str:
    """The path of the assembler for `sm`, which comes with triton."""
    import triton

    tools = triton.knobs.nvidia
    path: str = (tools.ptxas if sm < _BLACKWELL else tools.ptxas_blackwell).path
    return path


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


def _check(item: Compiled, sm: int, ptx: str) -> None:
    constants = dict(item.step.constants)
    found = machine.faults(item.machine, sm, item.shared)
    found += machine.order_faults(ptx, bool(constants["OVERLAP"]))
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


def versions(sm: int) -> dict[str, str]:
    """Of triton and of the assembler for `sm`, and the oldest driver that loads what they make."""
    import triton

    said = subprocess.run(
        [_assembler(sm), "--version"], capture_output=True, text=True, check=True
    ).stdout
    release = said.split("release ")[-1].split(",")[0]
    return {
        "triton": triton.__version__,
        "ptxas": release,
        "lowest_driver": LOWEST_DRIVER[int(release.split(".")[0])],
    }
