"""What `--checkpoint` names: `tiny`, a local directory, or a known model without weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import BadInputError
from ..models import HUB_IDS, TINY, known_model
from ..spec import Model


@dataclass(frozen=True, slots=True)
class Source:
    """A resolved `--checkpoint`. `checkpoint` is None for a known model without weights here."""

    asked: str
    slug: str
    model: Model
    checkpoint: Checkpoint | None

    def require_checkpoint(self) -> Checkpoint:
        """The opened checkpoint. Raises `BadInputError` that says how to get the weights."""
        if self.checkpoint is None:
            hub = next((hub for hub, short in HUB_IDS.items() if short == self.slug), self.asked)
            raise BadInputError(
                f"{self.asked}: its weights are not here. Fetch them with `hf download {hub} "
                f"--local-dir {self.slug}` and pass --checkpoint {self.slug}"
            )
        return self.checkpoint


def resolve(name: str) -> Source:
    """Find what `name` means: a directory first, then `tiny`, then a known hub id or short name.

    Raises `BadInputError` for anything else.
    """
    if name == "tiny" and not Path(name).is_dir():
        return _opened(name, TINY)
    if Path(name).is_dir():
        return _opened(name, Path(name))
    model = known_model(name)
    if model is None:
        raise BadInputError(
            f"{name}: no such directory and no model known by name (known: tiny, "
            f"{', '.join(HUB_IDS.values())})"
        )
    return Source(name, model.name, model, None)


def _opened(asked: str, path: Path) -> Source:
    checkpoint = Checkpoint.open(path.resolve())
    return Source(asked, slug(checkpoint.path.name), checkpoint.model, checkpoint)


def slug(name: str) -> str:
    """`name` as a DNS label, without the maker's name and the precision: what bundles, Triton
    models and Kubernetes objects are called after. At most 40 characters."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).removeprefix("nvidia-").strip("-")
    text = re.sub(r"-(bf16|fp8|int4)$", "", text)[:40].strip("-")
    return text if text[:1].isalpha() else f"model-{text}".strip("-")
