"""How close a quantized model stays to its source, on held-out text, layer by layer.

The source and every variant run side by side, each with its own activations and one layer in memory
at a time, so a model of any size can be compared on a machine that holds one of its layers. All
arithmetic is float32: what is seen is the quantization, not the rounding of a particular engine.
FP8 activations and an FP8 KV cache are rounded as the scales say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch
from torch import Tensor

from ..model.architecture import EMBEDDING, Model
from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from ..runtime import formats
from .layerwise import Layer, load_block, next_token_head, read_tensor, transformers_config
from .layouts import DEFAULT, Layout
from .roundings import Rounding, round_activations, to_fp8
from .smooth import Folding

KL_TOKENS: Final = 256
"""Tokens whose logits are held at once."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantize: what `stream.quantize` would be given."""

    key: str
    recipe: Recipe
    layout: Layout = DEFAULT
    amax: Mapping[str, float] = field(default_factory=dict)
    folding: Folding = field(default_factory=Folding)

    @property
    def roundings(self) -> dict[str, Rounding]:
        """How an engine rounds activations, keys and values."""
        return {name: to_fp8(largest) for name, largest in self.amax.items() if largest}


@dataclass(slots=True)
class Fidelity:
    """What a variant costs. `kl` is the mean divergence per token from the source's distribution,
    nats; `top1` the share of tokens whose likeliest successor is the same; `layer_errors` the
    relative error of the hidden state after each layer."""

    perplexity: float = math.nan
    kl: float = math.nan
    top1: float = math.nan
    layer_errors: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """`results` in the order of the variants."""

    tokens: int
    perplexity: float
    results: list[Fidelity]


def memory_needed(model: Model, variants: int, tokens: int) -> int:
    """Bytes that `compare` takes: the largest layer in float32 and once more in its stored dtype
    while it is read, or the head; and the activations of the source and all variants."""
    layers: dict[str, int] = {}
    for group in model.tensors():
        name = group.template
        layer = ".".join(name.split(".")[:3]) if ".layers." in name else name
        layers[layer] = layers.get(layer, 0) + group.parameters * 4 + group.bytes
    hidden = model.hidden_size * tokens * 4 * (variants + 2)
    logits = model.vocab_size * KL_TOKENS * 4 * 6
    return max(layers.values()) + hidden + logits


def compare(
    checkpoint: Checkpoint,
    variants: Sequence[Stored],
    sequences: Sequence[Sequence[int]],
    *,
    device: str = "cpu",
    on_layer: Callable[[int], None] | None = None,
) -> Comparison:
    """Run token ids `sequences` through the source and the variants.

    `on_layer` is called with the number of layers done.
    """
    config, read = transformers_config(checkpoint), partial(read_tensor, checkpoint)
    table = read(EMBEDDING)
    inputs = [table[torch.tensor([ids])].float().to(device) for ids in sequences]
    del table
    source = inputs
    runs = [list(inputs) for _ in variants]
    results = [Fidelity() for _ in variants]
    for index, letter in enumerate(checkpoint.model.pattern):
        block = load_block(checkpoint.model, config, index, read, torch.float32).to(device)
        source = Layer(index, letter, block, source).run()
        del block
        for variant, run, result in zip(variants, runs, results, strict=True):
            block = load_block(checkpoint.model, config, index, variant.read, torch.float32)
            round_activations(block.to(device), index, variant.variant.roundings)
            run[:] = Layer(index, letter, block, run).run()
            del block
            result.layer_errors.append(_relative_error(run, source))
        if on_layer:
            on_layer(index + 1)
    perplexity = _heads(checkpoint, sequences, source, runs, results, device)
    return Comparison(sum(map(len, sequences)), perplexity, results)


class Stored:
    """What the tensors of a checkpoint become when a variant folds, stores and reads them again.

    `errors` collects the relative Frobenius error of every quantized tensor that was read,
    against what it was after folding.
    """

    def __init__(self, variant: Variant, checkpoint: Checkpoint) -> None:
        self.variant = variant
        self._checkpoint = checkpoint
        self.errors: dict[str, float] = {}
        self.quantized: Final = {
            name: kind
            for group in checkpoint.model.tensors()
            if (kind := variant.recipe.format_of(group))
            for name in group.names()
        }

    def read(self, name: str) -> Tensor:
        """The values of the tensor `name` that an engine would compute with."""
        tensor = read_tensor(self._checkpoint, name)
        folded = self.variant.folding(name, tensor)
        if name not in self.quantized:
            return folded.to(tensor.dtype)
        deviation = formats.Deviation()
        stored = self.variant.layout.encode(folded, self.quantized[name], deviation)
        self.errors[name] = deviation.relative
        packed = stored["weight_packed"] if "weight_packed" in stored else stored["weight"]
        others = (stored.get(suffix) for suffix in ("weight_scale_2", "weight_shape"))
        return formats.decode(packed, stored["weight_scale"], *others)


def squared_differences(ours: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """Their sum over all tensors."""
    return sum(float((a - b).square().sum()) for a, b in zip(ours, other, strict=True))


def divergence(exact: Tensor, ours: Tensor) -> float:
    """Kullback-Leibler divergence between rows of log-probabilities, summed over rows, nats."""
    return float((exact.exp() * (exact - ours)).sum())


def _relative_error(run: Sequence[Tensor], source: Sequence[Tensor]) -> float:
    power = sum(float(exact.square().sum()) for exact in source)
    return math.sqrt(squared_differences(run, source) / power)


def _heads(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    source: Sequence[Tensor],
    runs: Sequence[Sequence[Tensor]],
    results: Sequence[Fidelity],
    device: str,
) -> float:
    """Fill in the metrics of the next-token distributions; returns the source's perplexity."""
    log_probabilities = next_token_head(checkpoint.model, partial(read_tensor, checkpoint), device)
    loss = 0.0
    sums = [[0.0, 0.0, 0.0] for _ in runs]
    tokens = sum(map(len, sequences))
    targets = tokens - len(sequences)
    for number, ids in enumerate(sequences):
        for start in range(0, len(ids), KL_TOKENS):
            part = slice(start, start + KL_TOKENS)
            following = torch.tensor(ids[part.start + 1 : part.stop + 1], device=device)
            exact = log_probabilities(source[number][0, part])
            loss += _loss(exact, following)
            for run, row in zip(runs, sums, strict=True):
                ours = log_probabilities(run[number][0, part])
                row[0] += _loss(ours, following)
                row[1] += divergence(exact, ours)
                row[2] += int((exact.argmax(-1) == ours.argmax(-1)).sum())
    for result, (total, kl, same) in zip(results, sums, strict=True):
        result.perplexity = math.exp(total / targets)
        result.kl, result.top1 = kl / tokens, same / tokens
    return math.exp(loss / targets)


def _loss(log_probabilities: Tensor, following: Tensor) -> float:
    """Sum of the negative log-probabilities of the tokens that follow, nats."""
    count = len(following)
    return -float(log_probabilities[:count].gather(-1, following[:, None]).sum())
