"""Before a server is ready, compare its outputs with the bundle's golden outputs.

If golden outputs are pending (the checkpoint was too large for the machine that built the bundle),
the first server that starts on a node records them in its cache, and later ones are compared with
them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .contract import CACHE, GOLDEN, XDG_CACHE_HOME
from .generation import Executor, StartError
from .golden import (
    FILE,
    NEW_TOKENS,
    Comparison,
    Entry,
    Forced,
    Golden,
    GoldenError,
    bounds_from,
    compare,
    recorded_positions,
)

NODE_FLOOR: Final = 1e-3
"""The smallest bound on the divergence, in nats, from outputs that a server recorded: kernels
and batches differ between runs by more than two runs show. The value is assumed."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result. `action`: `checked` against the bundle's or this node's golden outputs,
    `recorded` here for the first time, or `none`; `faults` is empty if the outputs agree."""

    action: str
    detail: str
    comparison: Comparison | None = None
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "ok": self.ok, "faults": list(self.faults)}


def cache_directory() -> Path:
    """Where this node keeps what it makes from bundles."""
    if given := os.environ.get(CACHE.name):
        return Path(given)
    base = os.environ.get(XDG_CACHE_HOME.name)
    return (Path(base) if base else Path.home() / ".cache") / "nemo-deploy"


def require_golden(bundle: Path, executor: Executor, log: Callable[[str], None]) -> None:
    """Raise `StartError` if the executor's outputs differ; the result goes to `log`."""
    if os.environ.get(GOLDEN.name, "").lower() == "off":
        log(f"golden outputs were not compared: ${GOLDEN.name} is off")
        return
    proof = prove(bundle, executor)
    if not proof.ok:
        raise StartError(
            f"golden outputs differ: {'; '.join(proof.faults)}. The server would not answer as the "
            f"quantized model does ({proof.detail}); ${GOLDEN.name}=off starts it anyway"
        )
    log(f"golden outputs {proof.action}: {proof.detail}")


def prove(bundle: Path, executor: Executor) -> Proof:
    """Check or record golden outputs. Raises `StartError` for a file that cannot be used."""
    path = bundle / "engine" / FILE
    if not path.exists():
        return Proof("none", "the bundle has no golden outputs; build it again to record them")
    try:
        golden = Golden.read(path)
        wrong = [e.text for e in golden.entries if executor.tokens(e.text) != e.case.prompt]
        if wrong:
            fault = f"the tokenizer gives other tokens for {wrong[0]!r} ({len(wrong)} prompts)"
            return Proof("checked", golden.by, None, (fault,))
        if golden.bounds:
            return _check(golden, executor)
        kept = cache_directory() / f"golden-{_identity(bundle, executor)}.json"
        return (
            _check(Golden.read(kept), executor)
            if kept.exists()
            else _record(golden, executor, kept)
        )
    except GoldenError as error:
        raise StartError(str(error)) from error


def _check(golden: Golden, executor: Executor) -> Proof:
    assert golden.bounds is not None, "only recorded outputs are kept"
    found = compare(golden, executor.score([entry.case for entry in golden.entries]))
    detail = f"{found.positions} positions, recorded by {golden.by}"
    return Proof("checked", detail, found, tuple(found.faults(golden.bounds)))


def _record(owed: Golden, executor: Executor, kept: Path) -> Proof:
    """Record outputs on this node, and their bounds from a second run in other batches."""
    prompts = [entry.case.prompt for entry in owed.entries]
    continued = executor.continuations(prompts, NEW_TOKENS)
    cases = [Forced(p, c) for p, c in zip(prompts, continued, strict=True)]
    first = [executor.score([case])[0] for case in cases]
    entries = tuple(
        Entry(entry.text, case, recorded_positions(scores, None))
        for entry, case, scores in zip(owed.entries, cases, first, strict=True)
    )
    by = f"{type(executor).__name__} on this node"
    healthy = compare(Golden(owed.checkpoint, by, entries), executor.score(cases))
    golden = Golden(owed.checkpoint, by, entries, bounds_from(healthy, NODE_FLOOR))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        golden.write(partial)
        partial.replace(kept)
    except OSError as error:
        return Proof("recorded", f"{owed.by}; they could not be saved: {error}", healthy)
    return Proof("recorded", f"{owed.by}; kept in {kept}", healthy)


def _identity(bundle: Path, executor: Executor) -> str:
    """Identifies golden outputs, engine and executor, for which a node's recording is valid."""
    digest = hashlib.sha256(type(executor).__name__.encode())
    for name in (FILE, "engine.json", "llm_args.yaml"):
        digest.update((bundle / "engine" / name).read_bytes())
    return digest.hexdigest()[:16]
