"""Run forced tokens through a quantized checkpoint, one layer in memory at a time, and compare
every part of it with its source.

Five runs go side by side, each with activations of its own:

- `exact`: the quantized weights as they are on the disk, in float32;
- `scaled`: the same with all quantized weights 2 % larger (see `runtime/golden.py`);
- `healthy`: the same in BF16, with everything rounded that a server rounds: activations, keys and
  values where the checkpoint has scales for that, and what the server's configuration rounds
  besides. This is how far from `exact` a server may be;
- `source` and `rounded`, where the source is given: its weights, and what plain rounding to the
  checkpoint's format makes of them.

Each layer is also run on what the source's layer gets. What it does must be as close to the
source's layer as rounding explains: a norm of another layer or a projection of the other sign is
seen where it is, whatever the layers behind it make of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import CheckFailedError
from ..model.architecture import EMBEDDING, Model, TensorGroup
from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from ..runtime.golden import ASKED, Forced, FromSource, Scores
from . import golden_texts
from .fidelity import Stored, Variant, divergence, memory_needed, squared_differences
from .layerwise import (
    Layer,
    Read,
    keep,
    layer_groups,
    load_block,
    next_token_head,
    parameter_name,
    read_tensor,
    resume,
    transformers_config,
)
from .quantized_reader import QuantizedReader
from .roundings import (
    STATE_DTYPES,
    Served,
    round_activations,
    run_mamba,
)

SCALES_OFF_BY: Final = 1.02
"""The fault whose direction is recorded."""

ERROR_FACTOR: Final = 2.0
ERROR_FLOOR: Final = 1e-3
"""How far from its source's a layer's output may be: so many times as far as plain rounding puts
it, and a little that the order of additions explains."""

DIVERGENCE_FACTOR: Final = 4.0
DIVERGENCE_FLOOR: Final = 1e-3
"""The same of the whole model's divergence from its source, nats a token."""

Hidden = list[Tensor]
"""Activations [1, tokens, hidden] of every case."""


class Source:
    """The checkpoint that was quantized, and how."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self.checkpoint, self.recipe = checkpoint, recipe
        self.read: Read = partial(read_tensor, checkpoint)
        self.read_rounded: Read = Stored(Variant(recipe.key, recipe), checkpoint).read

    def rounds(self, groups: Sequence[TensorGroup]) -> bool:
        """Whether any tensor of `groups` was to be rounded."""
        return any(self.recipe.quantizes(group) for group in groups)


@dataclass(slots=True)
class ForcedRun:
    """Scores of each case. `scaled` is None where nothing is quantized, `source` where the source
    was not given."""

    exact: list[Scores]
    scaled: list[Scores] | None
    healthy: list[Scores]
    source: FromSource | None


def bytes_needed(model: Model) -> int:
    """Bytes of memory that `run` takes for the texts of golden outputs, on top of what the process
    has: a layer, the activations of all runs, and distributions of three of them."""
    positions = golden_texts.PROMPTS * golden_texts.FORCED_TOKENS
    hidden_and_layer = memory_needed(model, 4, golden_texts.PROMPTS * _TOKENS_PER_CASE)
    return hidden_and_layer + positions * model.vocab_size * 4 * 3


_TOKENS_PER_CASE: Final = 256
"""More than any tokenizer of a real model makes of the texts."""


def run(
    quantized: Checkpoint,
    cases: Sequence[Forced],
    source: Source | None = None,
    *,
    served: Served | None = None,
    device: str = "cpu",
    work: Path | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> ForcedRun:
    """Run `cases` through the checkpoint `quantized` and, if given, its `source`. A server rounds
    what the checkpoint has scales for, and what `served` says.

    `work`, an existing directory, keeps what is done after each layer; a run with the same
    arguments goes on from there. `on_layer` is called with the number of layers done.

    Raises `CheckFailedError` naming the first part that does not do what the source's part does,
    `BadInputError` for a tensor that is missing or cannot be read.
    """
    runner = _Runner(quantized, cases, source, served or Served(), device)
    count = len(quantized.model.pattern)
    start = runner.begin(work)
    for index in range(start, count):
        runner.layer(index)
        keep(work, index + 1, runner.flat())
        if on_layer:
            on_layer(index + 1)
    return runner.heads()


class _Runner:
    """The activations of all runs, before the layer at hand. All runs begin with the same."""

    def __init__(
        self,
        quantized: Checkpoint,
        cases: Sequence[Forced],
        source: Source | None,
        served: Served,
        device: str,
    ) -> None:
        self._checkpoint, self._model = quantized, quantized.model
        self._read = QuantizedReader(quantized)
        self._config = transformers_config(quantized)
        self._config.chunk_size = SCAN_CHUNK
        self._config.use_mamba_kernels = False  # which would keep states of their own
        self._cases, self._source, self._served, self._device = cases, source, served, device
        self._runs: dict[str, Hidden] = {}
        names = ["exact", "healthy"]
        if any(map(self._read.quantized, self._model.tensors())):
            names.append("scaled")
        if source is not None:
            names += ["source", "rounded"]
        self._names: Final = tuple(names)

    def begin(self, work: Path | None) -> int:
        """Take up what an earlier run kept in `work`, or embed the tokens; gives the first layer
        that is to be run."""
        start, kept = resume(work)
        if kept is None:
            kept = self._embedded()
        hidden = iter(kept)
        for name in self._names:
            self._runs[name] = [next(hidden).to(self._device) for _ in self._cases]
        return start

    def flat(self) -> Hidden:
        """The activations of all runs, one after the other."""
        return [tensor for name in self._names for tensor in self._runs[name]]

    def _embedded(self) -> Hidden:
        fed = [torch.tensor([case.prompt + case.forced[:-1]]) for case in self._cases]
        table = self._read(EMBEDDING)
        hidden = {name: [table[ids].float() for ids in fed] for name in self._names}
        hidden["healthy"] = [tensor.bfloat16() for tensor in hidden["exact"]]
        if self._source is not None:
            exact, rounded = self._both(EMBEDDING)
            hidden["source"] = [exact[ids].float() for ids in fed]
            hidden["rounded"] = [rounded[ids].float() for ids in fed]
            self._require_alike(
                "the embedding", hidden["exact"], hidden["source"], hidden["rounded"]
            )
        return [tensor for name in self._names for tensor in hidden[name]]

    def _both(self, name: str) -> tuple[Tensor, Tensor]:
        """The source's tensor, and what plain rounding makes of it."""
        assert self._source is not None
        return self._source.read(name), self._source.read_rounded(name)

    def layer(self, index: int) -> None:
        """Run layer `index`, and compare it with the source's."""
        groups, runs = layer_groups(self._model, index), self._runs
        outputs = {}
        exact = rounded = None
        if self._source is not None:
            block = self._block(index, self._source.read)
            exact = self._outputs(block, index, runs["source"])
            if self._source.rounds(groups):
                del block  # before the next one: memory holds one layer
                block = self._block(index, self._source.read_rounded)
                rounded = self._outputs(block, index, runs["source"])
            else:
                rounded = exact
            outputs["source"] = exact
            outputs["rounded"] = self._outputs(block, index, runs["rounded"])
            del block
        block = self._block(index, self._read)
        outputs["exact"] = self._outputs(block, index, runs["exact"])
        if exact is not None and rounded is not None:
            ours = self._outputs(block, index, runs["source"])
            kind = _KINDS[self._model.pattern[index]]
            self._require_alike(f"layer {index} ({kind})", ours, exact, rounded, runs["source"])
        if "scaled" in runs:
            for group in filter(self._read.quantized, groups):
                block.get_parameter(parameter_name(group, index)).mul_(SCALES_OFF_BY)
            outputs["scaled"] = self._outputs(block, index, runs["scaled"])
        del block
        block = self._block(index, self._read, torch.bfloat16)
        round_activations(block, index, self._read.roundings(groups, self._served.fp8_kv))
        outputs["healthy"] = self._served_outputs(block, index, runs["healthy"])
        self._runs = outputs

    def _block(self, index: int, read: Read, dtype: torch.dtype = torch.float32) -> Any:
        return load_block(self._model, self._config, index, read, dtype).to(self._device)

    def _outputs(self, block: Any, index: int, inputs: Hidden) -> Hidden:
        """The outputs of a layer. One that sees each token by itself gets all of them at once, so
        that the weights of its experts pass through the caches once."""
        letter = self._model.pattern[index]
        if letter not in _TOKENWISE:
            return Layer(index, letter, block, inputs).run()
        (joined,) = Layer(index, letter, block, [torch.cat(inputs, dim=1)]).run()
        return list(torch.split(joined, [hidden.shape[1] for hidden in inputs], dim=1))

    def _served_outputs(self, block: Any, index: int, inputs: Hidden) -> Hidden:
        """The outputs of a layer in a server, which may keep the Mamba state in 16 bits."""
        dtype = STATE_DTYPES.get(self._served.state)
        if dtype is None or self._model.pattern[index] != "M":
            return self._outputs(block, index, inputs)
        return run_mamba(block, inputs, [len(case.prompt) for case in self._cases], dtype)

    def heads(self) -> ForcedRun:
        """The scores of all runs, from the activations behind the last layer. Each head is made
        once, and memory holds one."""
        head = self._head(self._read)
        exact = head("exact")
        scaled = self._scores(head("scaled")) if "scaled" in self._runs else None
        on_source = head("source") if self._source is not None else None
        del head
        healthy = self._scores(self._head(self._read, torch.bfloat16)("healthy"))
        source = None if on_source is None else self._from_source(exact, on_source)
        return ForcedRun(self._scores(exact), scaled, healthy, source)

    def _from_source(self, ours: Tensor, on_source: Tensor) -> FromSource:
        """`ours` are the log-probabilities of the quantized weights, `on_source` those of their
        head behind the source's layers."""
        assert self._source is not None
        exact = self._head(self._source.read)("source")
        head = self._head(self._source.read_rounded)
        self._require_alike("the head", [on_source], [exact], [head("source")])
        rounded = head("rounded")
        found = FromSource(
            divergence=_mean_divergence(exact, ours),
            agreement=float((exact.argmax(-1) == ours.argmax(-1)).float().mean()),
            rounding=_mean_divergence(exact, rounded),
        )
        if not found.divergence <= DIVERGENCE_FACTOR * found.rounding + DIVERGENCE_FLOOR:
            self._refuse(
                f"its distributions are {found.divergence:.1e} nats a token from its source's, "
                f"where plain rounding costs {found.rounding:.1e}"
            )
        return found

    def _head(self, read: Read, dtype: torch.dtype = torch.float32) -> Callable[[str], Tensor]:
        """The head that `read` gives, computed in `dtype`: gives the log-probabilities of all
        forced positions of a run [positions, vocabulary]."""
        head = next_token_head(self._model, read, self._device, dtype)

        def log_probabilities(run: str) -> Tensor:
            rows = [
                hidden[0, len(case.prompt) - 1 :]
                for hidden, case in zip(self._runs[run], self._cases, strict=True)
            ]
            with torch.inference_mode():
                return head(torch.cat(rows))

        return log_probabilities

    def _scores(self, log_probabilities: Tensor) -> list[Scores]:
        top = log_probabilities.topk(min(ASKED, log_probabilities.shape[-1]))
        rows = iter(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return [[dict(zip(*next(rows), strict=True)) for _ in case.forced] for case in self._cases]

    def _require_alike(
        self,
        part: str,
        ours: Hidden,
        exact: Hidden,
        rounded: Hidden,
        inputs: Hidden | None = None,
    ) -> None:
        """Raise `CheckFailedError` unless `ours` is as close to `exact` as `rounded` explains.
        Errors are relative to what the part adds to its `inputs`."""
        power = (
            squared_differences(exact, inputs)
            if inputs
            else sum(float(t.square().sum()) for t in exact)
        )
        error = math.sqrt(squared_differences(ours, exact) / power)
        explained = math.sqrt(squared_differences(rounded, exact) / power)
        if not error <= ERROR_FACTOR * explained + ERROR_FLOOR:
            self._refuse(
                f"{part} does not do what its source's does: on the same inputs its output is "
                f"{error:.1%} off, where rounding explains {explained:.1%}"
            )

    def _refuse(self, why: str) -> None:
        raise CheckFailedError(
            f"{self._checkpoint.path}: this quantized checkpoint is not what its source says: "
            f"{why}. Delete this directory and run the same command again; if the message comes "
            "again, report it"
        )


SCAN_CHUNK: Final = 16
"""Tokens of one chunk of Mamba's scan. The result depends on it by rounding alone. On a CPU,
transformers takes time for every pair of tokens in a chunk, padding included."""

_TOKENWISE: Final = "E-"
"""Layers that see each token by itself."""

_KINDS: Final[Mapping[str, str]] = {
    "M": "Mamba", "*": "attention", "E": "experts", "-": "MLP",
}  # fmt: skip


def _mean_divergence(exact: Tensor, ours: Tensor) -> float:
    """Mean Kullback-Leibler divergence of rows of log-probabilities, nats."""
    return sum(divergence(p, q) for p, q in _chunks(exact, ours)) / len(exact)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(*(torch.split(tensor, 64) for tensor in tensors), strict=True)
