"""The family's repositories on the hub that are known without asking it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository whose configuration is packaged.

    Attributes:
        hub: Its id on the hub.
        name: The short name it is known by. Repositories of one model in several formats share it;
            the unquantized one comes first.
        configuration: The short name of the packaged configuration, which can be another model's.
        published_as: The format of its weights, a key of `model.formats.QUANTS`. The tensors of a
            repository decide once they are read; this is what is planned before.
        whole: The class of a model with encoders, of which `configuration` is the language model;
            empty for a model that is all there is.
    """

    hub: str
    name: str
    configuration: str
    published_as: str = "bf16"
    whole: str = ""


def _one(
    name: str, hub: str, *formats: str, like: str = "", whole: str = ""
) -> tuple[Repository, ...]:
    """The repositories of one model: the unquantized `hub`, and those in `formats`, whose ids end
    in the format instead of in `-BF16`."""
    stem = hub.removesuffix("-BF16")
    quantized = (Repository(f"{stem}-{f.upper()}", name, like or name, f, whole) for f in formats)
    return (Repository(hub, name, like or name, whole=whole), *quantized)


_NANO: Final = "nemotron-3-nano-30b-a3b"
_SUPER: Final = "nemotron-3-super-120b-a12b"
_ULTRA: Final = "nemotron-3-ultra-550b-a55b"
_LIGHTNING: Final = "nemotron-3.5-lightning-30b-a3b"
_NANO_2: Final = "nemotron-nano-9b-v2"
_NANO_2_12B: Final = "nemotron-nano-12b-v2"

FAMILY: Final[tuple[Repository, ...]] = (
    *_one(_NANO, "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "fp8", "nvfp4"),
    *_one(f"{_NANO}-base", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-Base-BF16", like=_NANO),
    *_one("nemotron-3-nano-4b", "nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16", "fp8"),
    # Both were trained on from Nano and keep its shapes (their model cards); Elastic holds two
    # smaller models within them.
    *_one("nemotron-cascade-2-30b-a3b", "nvidia/Nemotron-Cascade-2-30B-A3B", like=_NANO),
    *_one(
        "nemotron-labs-3-elastic-30b-a3b",
        "nvidia/NVIDIA-Nemotron-Labs-3-Elastic-30B-A3B-BF16",
        "fp8",
        "nvfp4",
        like=_NANO,
    ),
    *_one(
        "nemotron-3-nano-omni-30b-a3b-reasoning",
        "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16",
        "fp8",
        "nvfp4",
        like=_NANO,
        whole="NemotronH_Nano_Omni_Reasoning_V3",
    ),
    *_one(_SUPER, "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", "fp8", "nvfp4"),
    *_one(f"{_SUPER}-base", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-Base-BF16", like=_SUPER),
    *_one(_ULTRA, "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", "nvfp4"),
    *_one(f"{_ULTRA}-base", "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-Base-BF16", like=_ULTRA),
    *_one(_LIGHTNING, "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16", "nvfp4"),
    *_one(
        f"{_LIGHTNING}-base",
        "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-Base-BF16",
        like=_LIGHTNING,
    ),
    *_one(_NANO_2, "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "fp8", "nvfp4"),
    *_one(f"{_NANO_2}-base", "nvidia/NVIDIA-Nemotron-Nano-9B-v2-Base", like=_NANO_2),
    *_one(_NANO_2_12B, "nvidia/NVIDIA-Nemotron-Nano-12B-v2"),
    *_one(f"{_NANO_2_12B}-base", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-Base", like=_NANO_2_12B),
    *_one("nemotron-h-4b-base-8k", "nvidia/Nemotron-H-4B-Base-8K"),
    *_one("nemotron-h-8b-base-8k", "nvidia/Nemotron-H-8B-Base-8K"),
    *_one("nemotron-h-47b-base-8k", "nvidia/Nemotron-H-47B-Base-8K"),
    *_one("nemotron-h-56b-base-8k", "nvidia/Nemotron-H-56B-Base-8K"),
)


def known_repository(name: str) -> Repository | None:
    """The repository of that hub id, or the unquantized one of that short name; letter case is
    ignored. None where there is none."""
    wanted = name.lower()
    return next((row for row in FAMILY if wanted in (row.hub.lower(), row.name)), None)


def original_repository(name: str) -> str:
    """The unquantized repository of the model that the known `name` stands for."""
    known = known_repository(name)
    assert known is not None, "the name of a known repository"
    return next(row.hub for row in FAMILY if row.name == known.name)
