"""The modules that stand where TensorRT-LLM would create experts of its own.

Upstream's loader visits modules that own parameters directly and hands each the tensors below its
name: `load_weights([{suffix: tensor}])`. Its mapper for Nemotron-H calls a routed expert's
`up_proj` `w1` and its `down_proj` `w2`, and adds an empty `w3`, unless the MoE backend is VANILLA
(checkpoints/hf/nemotron_h_weight_mapper.py @05b033a); both spellings are read. Tensors may be lazy
slices, so they are indexed with `[:]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from .. import kernels
from .routing import Routing, made_up, own_router
from .sharding import columns_of, experts_of

Weights = Mapping[str, Any]

_NAMES: Final = {"up": ("w1", "up_proj"), "down": ("w2", "down_proj")}


class WeightError(ValueError):
    """A tensor of the checkpoint is missing or not what it should be; the message names it."""


class KernelError(RuntimeError):
    """Kernels compute something else on this GPU than the weights say; the message says where."""


CHECK_BOUND: Final = 0.02
"""Largest relative error of one token against FP32. Rounding to BF16 costs 0.4 % at most here."""

CHECK_TOKENS: Final = (1, 2, 8, 12, 64, 256, 2048)
"""Numbers of tokens of which one layer is checked: each takes another tile, or another order."""


class PackedModule(nn.Module, ABC):
    """Packed INT4 or INT8 weights as parameters of this module itself, which is how upstream finds
    it.

    Memory is allocated as upstream does it, by `torch.empty` under whatever device mode is set, and
    nothing is computed before weights arrive.
    """

    up: Tensor
    up_scale: Tensor
    down: Tensor
    down_scale: Tensor

    def __init__(
        self,
        name: str,
        count: int,
        hidden: int,
        width: int,
        group: int,
        bits: int,
        scale_divisor: int,
    ) -> None:
        super().__init__()
        self.name, self.hidden, self.width = name, hidden, width
        self.group, self.bits, self.scale_divisor = group, bits, scale_divisor
        self.loaded = False
        shapes = kernels.shapes(count, hidden, width, group, bits, scale_divisor)
        for key, (shape, dtype) in shapes.items():
            setattr(self, key, nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False))

    @property
    def packed(self) -> kernels.PackedExperts:
        """The parameters as the kernels take them."""
        return kernels.PackedExperts(
            self.up,
            self.up_scale,
            self.down,
            self.down_scale,
            self.hidden,
            self.width,
            self.group,
            self.scale_divisor,
        )

    @abstractmethod
    def check(self, many: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        """Run the kernels on made-up tokens, against plain FP32 on the same packed weights.

        With `many`, in all of `CHECK_TOKENS`. Raises `KernelError`. Waits for the GPU: for loading.
        """

    def _compare(self, out: Tensor, expected: Tensor, what: str) -> None:
        difference = (out.float() - expected.float()).norm(dim=1)
        error = difference / expected.float().norm(dim=1).clamp_min(1e-30)
        worst = float(error.nan_to_num(torch.inf).max())
        if worst > CHECK_BOUND:
            raise KernelError(
                f"{self.name}: the INT{self.bits} kernels are off by {worst:.1%} on this GPU "
                f"({what}), at most {CHECK_BOUND:.0%} is rounding; do not serve with them, and "
                "please report it"
            )

    def _probe(self, tokens: int, width: int, dtype: torch.dtype) -> Tensor:
        """Made-up values [tokens, width] where the weights are."""
        return made_up(tokens, width).to(self.up.device, dtype)

    def _store(self, place: int, get: Callable[[str, str], Tensor]) -> None:
        """Pack one expert into `place`; `get(part, suffix)` gives its stored tensors."""
        device = self.up.device
        stored = {
            key: get(part, suffix).to(device).unsqueeze(0)
            for key, part, suffix in (
                ("up", "up", "weight"), ("up_scale", "up", "weight_scale"),
                ("down", "down", "weight"), ("down_scale", "down", "weight_scale"),
            )
        }  # fmt: skip
        try:
            packed = kernels.pack(**stored, scale_divisor=self.scale_divisor)
        except kernels.PackError as error:
            raise WeightError(f"{self.name}: expert {place}: {error}") from None
        wanted = (self.bits, self.hidden, self.width, self.group)
        if (packed.bits, packed.hidden, packed.width, packed.group) != wanted:
            raise WeightError(
                f"{self.name}: expert {place} is INT{packed.bits}, {packed.width} wide on "
                f"{packed.hidden} in groups of {packed.group}; INT{self.bits}, {self.width} on "
                f"{self.hidden} in groups of {self.group} is expected"
            )
        for key in stored:
            getattr(self, key).data[place].copy_(getattr(packed, key)[0])

    def _find(self, weights: Weights, prefix: str, part: str, suffix: str) -> Tensor:
        for spelling in _NAMES[part]:
            if (found := weights.get(f"{prefix}{spelling}.{suffix}")) is not None:
                tensor: Tensor = found[:]
                return tensor
        raise WeightError(
            f"{self.name}.{prefix}{_NAMES[part][1]}.{suffix} is missing from the checkpoint"
        )


class RoutedExperts(PackedModule):
    """One rank's routed experts of one layer, in place of what `create_moe` returns.

    Takes `create_moe`'s arguments that matter here (modeling_nemotron_h.py @00620eb, NemotronHMOE)
    and is called as its result is: `experts(hidden, router_logits, all_rank_num_tokens=...,
    use_dp_padding=...)`. The result is this rank's part of the sum.
    """

    def __init__(
        self,
        *,
        routing: Routing,
        experts: int,
        hidden: int,
        width: int,
        group: int,
        bits: int,
        scale_divisor: int,
        top_k: int,
        rank: int,
        ranks: int,
        layer: int,
    ) -> None:
        own = experts_of(experts, rank, ranks)
        name = f"model.layers.{layer}.mixer.experts"
        super().__init__(name, len(own), hidden, width, group, bits, scale_divisor)
        self.routing, self.own, self.top_k, self.whole = routing, own, top_k, experts
        self.router: kernels.Router | None = None

    def load_weights(self, weights: Sequence[Weights]) -> None:
        """Pack this rank's experts. Raises `WeightError` naming what is missing or wrong."""
        (tensors,) = weights
        for place, expert in enumerate(self.own):
            self._store(place, partial(self._find, tensors, f"{expert}."))
        self.loaded = True

    def choose_here(self) -> None:
        """From now on let our kernel choose the experts. Raises `RouterError` where it would choose
        otherwise than upstream; upstream then goes on choosing."""
        self.router = own_router(self.routing, self.whole, self.up.device)

    def check(self, many: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        """Every expert by itself; with `many`, also mixtures of them in several batch sizes."""
        numbers = torch.arange(len(self.own), dtype=torch.int32, device=self.up.device)
        alone = torch.full((len(numbers), self.top_k), -1, dtype=torch.int32, device=numbers.device)
        alone[:, 0] = numbers + self.own.start
        self._check_routing(alone, dtype, "each expert by itself")
        choices = torch.arange(self.top_k, dtype=torch.int32, device=numbers.device)
        for tokens in CHECK_TOKENS if many else ():
            rows = torch.arange(tokens, dtype=torch.int32, device=numbers.device).unsqueeze(1)
            mixed = (rows * 7 + choices * (1 + rows % 2)) % len(self.own) + self.own.start
            self._check_routing(mixed, dtype, f"{tokens} tokens")
            if self.router:
                self._check_choosing(tokens, self.router, dtype)

    def _check_routing(self, ids: Tensor, dtype: torch.dtype, what: str) -> None:
        hidden = self._probe(len(ids), self.hidden, dtype)
        share = 1 / ids.shape[1]
        weights = torch.full(ids.shape, share, device=ids.device, dtype=torch.float32)
        out = kernels.moe(hidden, ids, weights, self.packed, self.own.start)
        expected = kernels.reference_moe(hidden, ids, weights, self.packed, self.own.start)
        self._compare(out, expected, what)

    def _check_choosing(self, tokens: int, router: kernels.Router, dtype: torch.dtype) -> None:
        hidden = self._probe(tokens, self.hidden, dtype)
        logits = self._probe(tokens, self.whole, torch.float32)
        out = kernels.routed_moe(hidden, logits, router, self.packed, self.own.start)
        ids, weights = kernels.route(logits, router)
        expected = kernels.reference_moe(hidden, ids, weights, self.packed, self.own.start)
        self._compare(out, expected, f"{tokens} tokens, experts chosen by our router")

    def forward(self, hidden_states: Tensor, router_logits: Tensor, **_: object) -> Tensor:
        """hidden_states [..., H], router_logits [T, experts] -> [..., H]."""
        hidden = hidden_states.reshape(-1, self.hidden)
        if self.router:
            logits = router_logits.to(torch.float32)
            out = kernels.routed_moe(hidden, logits, self.router, self.packed, self.own.start)
        else:
            ids, weights = self.routing.apply(router_logits)
            ids, weights = ids.to(torch.int32), weights.to(torch.float32)
            out = kernels.moe(hidden, ids, weights, self.packed, self.own.start)
        return out.view(hidden_states.shape)


class SharedExpert(PackedModule):
    """One rank's part of one layer's shared expert, in place of upstream's `MLP`.

    `up` is split by output rows and `down` by input columns, so the ranks' results add up.
    """

    def __init__(
        self,
        *,
        hidden: int,
        width: int,
        group: int,
        bits: int,
        scale_divisor: int,
        rank: int,
        ranks: int,
        layer: int,
    ) -> None:
        own = columns_of(width, group, rank, ranks)
        name = f"model.layers.{layer}.mixer.shared_experts"
        super().__init__(name, 1, hidden, len(own), group, bits, scale_divisor)
        self.own, self.whole = own, width

    def load_weights(self, weights: Sequence[Weights]) -> None:
        """Pack this rank's columns. Raises `WeightError` naming what is missing or wrong."""
        (tensors,) = weights
        # In INT4 two output rows share a byte. The columns of a group, or all, share a scale.
        packed_rows = 8 // self.bits
        stored = slice(self.own.start // packed_rows, self.own.stop // packed_rows)
        rows = slice(self.own.start, self.own.stop)
        every = slice(None)
        part: dict[tuple[str, str], tuple[slice, ...]] = {
            ("up", "weight"): (stored, every),
            ("up", "weight_scale"): (rows,),
            ("down", "weight"): (every, rows),
            ("down", "weight_scale"): (every,),
        }
        sizes: dict[tuple[str, str], tuple[int, ...]] = {
            ("up", "weight"): (self.whole // packed_rows, self.hidden),
            ("up", "weight_scale"): (self.whole,),
            ("down", "weight"): (self.hidden // packed_rows, self.whole),
            ("down", "weight_scale"): (self.hidden,),
        }
        if self.group:
            groups = slice(self.own.start // self.group, self.own.stop // self.group)
            part["down", "weight_scale"] += (groups,)
            sizes["up", "weight_scale"] += (self.hidden // self.group,)
            sizes["down", "weight_scale"] += (self.whole // self.group,)

        def get(name: str, suffix: str) -> Tensor:
            tensor = self._find(tensors, "", name, suffix)
            if tuple(tensor.shape) != sizes[name, suffix]:
                raise WeightError(
                    f"{self.name}.{_NAMES[name][1]}.{suffix} is {list(tensor.shape)}; "
                    f"{list(sizes[name, suffix])} is expected"
                )
            return tensor[part[name, suffix]].contiguous()

        self._store(0, get)
        self.loaded = True

    def check(self, many: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        """A few tokens; with `many`, several numbers of them."""
        for tokens in CHECK_TOKENS if many else CHECK_TOKENS[:1]:
            hidden = self._probe(tokens, self.hidden, dtype)
            out = kernels.shared(hidden, self.packed)
            expected = kernels.reference_shared(hidden, self.packed)
            self._compare(out, expected, f"{tokens} tokens")

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """hidden_states [..., H] -> [..., H]."""
        out = kernels.shared(hidden_states.reshape(-1, self.hidden), self.packed)
        return out.view(hidden_states.shape)
