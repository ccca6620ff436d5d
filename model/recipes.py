"""The recipes that `--recipe` names: one record each.

A recipe that somebody published for a model is its default; `conservative` is that of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .architecture import Role
from .recipe import EXPERT_ROLES, Choice, Recipe
from .weight_format import WeightFormat

FP8: Final = WeightFormat("fp8")
INT8: Final = WeightFormat("int8", 64)
INT4: Final = WeightFormat("int4", 64)
NVFP4: Final = WeightFormat("nvfp4", 16)

MAMBA: Final = frozenset({Role.MAMBA_PROJ})
ATTENTION: Final = frozenset({Role.ATTENTION})

FP8_KV: Final = "F8_E4M3"

NANO: Final = "nemotron-3-nano-30b-a3b"
SUPER: Final = "nemotron-3-super-120b-a12b"
ULTRA: Final = "nemotron-3-ultra-550b-a55b"
LIGHTNING: Final = "nemotron-3.5-lightning-30b-a3b"
NANO_9B: Final = "nemotron-nano-9b-v2"

CONSERVATIVE: Final[Mapping[str, Recipe]] = {
    "bf16": Recipe("bf16"),
    "fp8": Recipe("fp8", (Choice(EXPERT_ROLES, FP8),), FP8_KV, "ModelOpt's conservative preset"),
    "int8": Recipe("int8", (Choice(EXPERT_ROLES, INT8),)),
    "int4": Recipe("int4", (Choice(EXPERT_ROLES, INT4),)),
    "nvfp4": Recipe("nvfp4", (Choice(EXPERT_ROLES, NVFP4),)),
}
"""By `--quant`: experts and dense MLPs alone."""

AGGRESSIVE: Final[Mapping[str, Recipe]] = {
    "fp8": Recipe(
        "fp8", (Choice(EXPERT_ROLES | MAMBA, FP8),), FP8_KV, "ModelOpt's aggressive preset"
    ),
    "int8": Recipe("int8", (Choice(EXPERT_ROLES | MAMBA | ATTENTION, INT8),)),
    "int4": Recipe("int4", (Choice(EXPERT_ROLES | MAMBA, INT4), Choice(ATTENTION, INT8))),
    "nvfp4": Recipe("nvfp4", (Choice(EXPERT_ROLES | MAMBA, NVFP4),)),
}
"""By `--quant`: Mamba, too, and attention in the integer formats, as public INT4 checkpoints of
other makers have it."""


@dataclass(frozen=True, slots=True)
class Published:
    """A recipe that was published for `models`, which are short names of the catalogue."""

    models: tuple[str, ...]
    recipe: Recipe


_NANO_CHOICES: Final = Choice(MAMBA, None, feeds_attention=True)

_MIXED: Final = (
    Choice(frozenset({Role.EXPERT}), NVFP4),
    Choice(frozenset({Role.SHARED_EXPERT}) | MAMBA, FP8),
)

PUBLISHED: Final = (
    Published(
        (NANO,),
        Recipe(
            "fp8",
            (_NANO_CHOICES, Choice(EXPERT_ROLES | MAMBA, FP8)),
            FP8_KV,
            "NVIDIA's technical report of Nemotron 3 Nano, section 4",
        ),
    ),
    Published(
        (NANO,),
        Recipe(
            "nvfp4",
            (_NANO_CHOICES, Choice(EXPERT_ROLES | MAMBA, NVFP4)),
            FP8_KV,
            "NVIDIA's card of Nemotron 3 Nano NVFP4, which was distilled besides",
        ),
    ),
    Published(
        (SUPER,),
        Recipe(
            "fp8",
            (Choice(EXPERT_ROLES | MAMBA, FP8),),
            FP8_KV,
            "NVIDIA's documentation of Nemotron 3 Super, quantization stage",
        ),
    ),
    Published(
        (SUPER, ULTRA),
        Recipe("nvfp4", _MIXED, FP8_KV, "ModelOpt 0.47's recipes of Nemotron 3 Super and Ultra"),
    ),
    Published(
        (LIGHTNING,),
        Recipe(
            "nvfp4",
            (
                Choice(frozenset({Role.EXPERT, Role.SHARED_EXPERT, Role.HEAD}), NVFP4),
                Choice(MAMBA, FP8),
            ),
            FP8_KV,
            "ModelOpt 0.47's recipe of Nemotron 3.5 Lightning",
        ),
    ),
    Published(
        (NANO_9B,),
        Recipe(
            "fp8",
            (Choice(EXPERT_ROLES | MAMBA, FP8),),
            FP8_KV,
            "the size of NVIDIA's FP8 checkpoint of Nemotron Nano 9B v2",
        ),
    ),
    Published(
        (NANO_9B,),
        Recipe(
            "nvfp4",
            (Choice(EXPERT_ROLES | MAMBA, NVFP4),),
            "BF16",
            "NVIDIA's card of Nemotron Nano 9B v2 NVFP4",
        ),
    ),
)
"""Where NVIDIA's own have NVFP4 activations as well, ours have NVFP4 weights only."""
