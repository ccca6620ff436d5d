"""Kernels compiled before: check a store, load it on the serving node, launch from it.

    open_store(directory, device=0)     # before the first request, outside of any graph capture

A store for another SM version, or made from other sources than these, is not used: that is said
once, in one line, and kernels are then compiled where they run. A store whose files are not what
its index says is damaged, and refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import launch
from .driver import CudaDriver, Driver, DriverError, Launch
from .source import FORMAT, source_digest
from .steps import Step
from .store import Identity, identity, read_cubin, read_index, recorded_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One kernel, ready to launch."""

    function: int
    threads: int
    shared: int
    parameters: tuple[str, ...]


class CubinStore:
    """The kernels of one store, all loaded at once: a graph capture must not load any."""

    def __init__(self, kernels: Mapping[Identity, Loaded], driver: Driver) -> None:
        self._kernels = kernels
        self._driver = driver

    def __len__(self) -> int:
        return len(self._kernels)

    def bind(self, step: Step, types: tuple[str, ...]) -> Launch | None:
        """The launch of `step` with operands of these types; None where no stored kernel fits."""
        kernel = self._kernels.get(identity(step, types))
        if kernel is None:
            return None
        return self._driver.prepare(
            kernel.function,
            step.programs,
            kernel.threads,
            kernel.shared,
            len(kernel.parameters),
            step.overlaps,
        )


def open_store(
    directory: Path, device: int = 0, driver: Driver | None = None, sm: int | None = None
) -> CubinStore | None:
    """Load all of a store's kernels and use them for `device` from now on.

    Gives None, and says why, where kernels have to be compiled here instead: another SM version
    than `sm` (by default the device's), other sources, a driver that does not take the cubins.
    Raises StoreError for a damaged store.
    """
    index = read_index(directory)
    here = sm if sm is not None else launch.sm_of(device)
    reason = _unusable(index, here)
    if reason is None:
        try:
            driver = driver or CudaDriver(device)
            _require_driver(index, driver)
            store = CubinStore(_load_all(directory, index, driver), driver)
        except DriverError as error:
            reason = str(error)
        else:
            launch.use(store, device)
            log.info("%d stored kernels for SM %d loaded from %s", len(store), here, directory)
            return store
    log.warning("stored kernels in %s are not used: %s; compiling here", directory, reason)
    return None


def _unusable(index: Mapping[str, Any], sm: int) -> str | None:
    """Why these kernels are none for this device and these sources; None where they are."""
    if index.get("format") != FORMAT:
        return f"their index has format {index.get('format')}, this version reads {FORMAT}"
    if index.get("sm") != sm:
        return f"they were compiled for SM {index.get('sm')}, this device is SM {sm}"
    if index.get("source") != source_digest():
        return "they were compiled from another version of the kernels"
    return None


def _require_driver(index: Mapping[str, Any], driver: Driver) -> None:
    """Raise `DriverError` where the driver is older than the kernels' machine code needs."""
    major, minor = driver.cuda_version()
    if major < int(index["ptxas"].split(".")[0]):
        raise DriverError(
            f"they need driver {index['lowest_driver']} or later, and this one is of CUDA "
            f"{major}.{minor}"
        )


def _load_all(directory: Path, index: Mapping[str, Any], driver: Driver) -> dict[Identity, Loaded]:
    kernels = {}
    for record in index["kernels"]:
        cubin = read_cubin(directory, record)
        shared = int(record["shared_bytes"])
        kernels[recorded_identity(record)] = Loaded(
            driver.load(cubin, record["symbol"], shared),
            32 * int(record["warps"]),
            shared,
            tuple(record["parameters"]),
        )
    return kernels
