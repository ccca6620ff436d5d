"""Before a server is ready, compare its outputs with the bundle's golden outputs.

Where the bundle has none (no machine with its weights could run them), nothing says whether the
server is right: it is *not checked*. The first server on a node then keeps its own outputs there as
a baseline, and later ones are compared with that, which shows change and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .contract import CACHE, GOLDEN, GOLDEN_BEGINS, GOLDEN_MODES, XDG_CACHE_HOME
from .engine import arguments_file
from .errors import StartError
from .generation import Executor
from .golden import (
    FILE,
    Comparison,
    Entry,
    GoldenError,
    Recording,
    bounds_from,
    compare,
    recorded_positions,
)

NODE_FLOOR: Final = 1e-3
"""The smallest bound on the divergence, in nats, from outputs that a server recorded: kernels
and batches differ between runs by more than two runs show. The value is assumed."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a node's own recording shows. `action`: `recorded` now, `not_saved` (recorded, but the
    cache cannot be written), `unchanged` or `changed` since it was recorded."""

    action: str
    detail: str
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """The result. `action`: `checked` against the bundle's golden outputs, or `not_checked`, and
    `detail` says why; `baseline` is there in the second case only. `faults` is empty if nothing
    is wrong as far as that was looked at."""

    action: str
    detail: str
    comparison: Comparison | None = None
    faults: tuple[str, ...] = ()
    baseline: Baseline | None = None

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def checked(self) -> bool:
        return self.action == "checked"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "ok": self.ok, "faults": list(self.faults)}

    def words(self) -> str:
        """The result in one sentence."""
        text = f"golden outputs {self.action.replace('_', ' ')}: {self.detail}"
        if self.baseline is not None:
            text += f"; this node's baseline: {self.baseline.detail}"
        return text


def cache_directory() -> Path:
    """Where this node keeps what it makes from bundles."""
    if given := os.environ.get(CACHE.name):
        return Path(given)
    base = os.environ.get(XDG_CACHE_HOME.name)
    return (Path(base) if base else Path.home() / ".cache") / "nemo-deploy"


def require_golden(bundle: Path, executor: Executor, log: Callable[[str], None]) -> None:
    """Raise `StartError` if the executor's outputs differ, or if they cannot be checked although
    the environment says that they must; the result goes to `log`, in words and as JSON."""
    mode = golden_mode()
    if mode == "off":
        proof = Proof("not_checked", f"${GOLDEN.name} is off")
    elif not executor.has_weights:
        proof = Proof("not_checked", "the executor does not use the checkpoint's weights")
    else:
        log(GOLDEN_BEGINS)
        proof = prove(bundle, executor)
    if not proof.ok:
        what, means = _DIFFERS if proof.checked else _CHANGED
        raise StartError(
            f"{what}: {'; '.join(proof.faults)}. {means} ({proof.detail}); ${GOLDEN.name}=off "
            "starts it anyway"
        )
    if mode == "require" and not proof.checked:
        raise StartError(
            f"golden outputs were not checked: {proof.detail}. ${GOLDEN.name}=require forbids a "
            "server that was not checked"
        )
    log(proof.words())
    log(f"golden outputs as JSON: {json.dumps(proof.record())}")


_DIFFERS: Final = (
    "golden outputs differ",
    "The server would not answer as the quantized model does",
)
_CHANGED: Final = (
    "outputs changed since an earlier start on this node",
    "Either server may be the wrong one. Without golden outputs nothing tells which; delete the "
    "baseline to record it again",
)


def golden_mode() -> str:
    """What the environment says of the comparison. Raises `StartError` for an unknown value."""
    mode = os.environ.get(GOLDEN.name, "").lower() or "on"
    if mode not in GOLDEN_MODES:
        raise StartError(f"${GOLDEN.name} is {mode!r}; known are {', '.join(GOLDEN_MODES)}")
    return mode


def prove(bundle: Path, executor: Executor) -> Proof:
    """Compare with the bundle's golden outputs, or with this node's baseline where there are none.
    Raises `StartError` for a file that cannot be used."""
    path = bundle / "engine" / FILE
    if not path.exists():
        return Proof("not_checked", f"{path} is missing; build the bundle again")
    try:
        recorded = _golden(path)
        wrong = [e.text for e in recorded.entries if executor.tokens(e.text) != e.case.prompt]
        if wrong:
            fault = f"the tokenizer gives other tokens for {wrong[0]!r} ({len(wrong)} prompts)"
            return Proof("checked", f"tokens of {len(recorded.entries)} prompts", None, (fault,))
        if recorded.bounds is not None:
            comparison, faults = _compared(recorded, executor)
            return Proof("checked", recorded.describe(), comparison, faults)
        return _not_checked(bundle, recorded, executor)
    except GoldenError as error:
        raise StartError(str(error)) from error


def _golden(path: Path) -> Recording:
    """What a bundle says of its golden outputs."""
    recorded = Recording.read(path)
    if recorded.status == "baseline":
        raise GoldenError(f"{path}: is what a server recorded of itself, no golden outputs")
    return recorded


def _compared(recorded: Recording, executor: Executor) -> tuple[Comparison, tuple[str, ...]]:
    assert recorded.bounds is not None, "only what has bounds is compared"
    seen = executor.score([entry.case for entry in recorded.entries])
    comparison = compare(recorded.entries, seen)
    return comparison, tuple(comparison.faults(recorded.bounds))


def _not_checked(bundle: Path, recorded: Recording, executor: Executor) -> Proof:
    """The result without golden outputs, with this node's baseline."""
    kept = cache_directory() / f"baseline-{_identity(bundle, executor)}.json"
    if not kept.exists():
        return Proof("not_checked", recorded.note, baseline=_record(recorded, executor, kept))
    comparison, faults = _compared(Recording.read(kept), executor)
    if not faults:
        baseline = Baseline("unchanged", f"unchanged since {kept} was recorded", comparison)
        return Proof("not_checked", recorded.note, baseline=baseline)
    baseline = Baseline("changed", f"changed since {kept} was recorded", comparison)
    changed = tuple(f"changed since {kept} was recorded: {fault}" for fault in faults)
    return Proof("not_checked", recorded.note, None, changed, baseline)


def _record(recorded: Recording, executor: Executor, kept: Path) -> Baseline:
    """Record this server's outputs, and their bounds from a second run in other batches."""
    cases = [entry.case for entry in recorded.entries]
    first = [executor.score([case])[0] for case in cases]
    entries = tuple(
        Entry(entry.text, entry.case, recorded_positions(scores, None))
        for entry, scores in zip(recorded.entries, first, strict=True)
    )
    again = compare(entries, executor.score(cases))
    by = f"{type(executor).__name__} on this node"
    bounds = bounds_from(again, NODE_FLOOR)
    own = Recording("baseline", recorded.checkpoint, by, entries, bounds)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        own.write(partial)
        partial.replace(kept)
    except OSError as error:
        return Baseline("not_saved", f"recorded now, but it could not be saved: {error}", again)
    return Baseline("recorded", f"recorded now, kept in {kept}", again)


def _identity(bundle: Path, executor: Executor) -> str:
    """Identifies prompts, engine and executor, for which a node's baseline is valid."""
    digest = hashlib.sha256(type(executor).__name__.encode())
    engine = bundle / "engine"
    for path in (engine / FILE, engine / "engine.json", arguments_file(bundle)[1]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
