"""Every rule, by its subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from . import (
    availability,
    draining,
    identity,
    network,
    placement,
    probes,
    references,
    resources,
    security,
    serving,
)
from .findings import Rule

RULES: Final[Mapping[str, tuple[Rule[Any], ...]]] = {
    "placement": placement.RULES,
    "resources": resources.RULES,
    "probes": probes.RULES,
    "draining": draining.RULES,
    "serving": serving.RULES,
    "bundle": identity.RULES,
    "security": security.RULES,
    "network": network.RULES,
    "availability": availability.RULES,
    "references": references.RULES,
}
"""The rules of each subject. A subject is one check of `verify`."""
