"""Calibration: what FP8 activations and INT4 smoothing need to know of a model, layer by layer.

FP8 ranges are collected by ModelOpt's own quantizers. The peak is one layer and the activations of
the calibration text, on the CPU or a GPU; a run that was interrupted goes on at the last layer.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..core.errors import BadInputError, UsageError
from ..core.extras import require
from ..core.files import write_atomically
from ..model.architecture import TensorGroup
from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from .calibration_record import CalibrationRecord, thinness
from .layerwise import Layer, layers
from .smooth import Choice, Folding, report, smooth_layer
from .texts import read_sequences

KEPT: Final = "found.safetensors"

QUANTIZER: Final = re.compile(r"block\.(?P<owner>.+)[._](?P<side>input|output)_quantizer")
"""`block.mixer.q_proj.input_quantizer`, but `block.mixer.experts.up_proj_input_quantizer`."""


@dataclass(slots=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        amax: Largest input magnitude by quantized tensor; largest key and value magnitudes by
            `...k_proj.k_scale` and `...v_proj.v_scale`. Empty unless the recipe has activations.
        folding: Scales to fold into weights before rounding. Empty unless smoothing is on.
        expert_tokens: Tokens each routed expert saw, by layer index.
        source: Where the text came from.
    """

    source: str
    sequences: int
    tokens: int
    amax: dict[str, float] = field(default_factory=dict)
    folding: Folding = field(default_factory=Folding)
    expert_tokens: dict[int, list[int]] = field(default_factory=dict)

    def record(self) -> CalibrationRecord:
        """What is kept of it for the reader of a record."""
        return CalibrationRecord(
            source=self.source,
            sequences=self.sequences,
            tokens=self.tokens,
            experts_without_tokens=sum(row.count(0) for row in self.expert_tokens.values()),
            expert_tokens={str(layer): row for layer, row in self.expert_tokens.items()},
            smoothing=report(self.folding.choices.values()),
            thin=thinness(self.tokens, self.expert_tokens.values()),
        )


def calibrate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    file: Path | None = None,
    *,
    smooth: bool = False,
    device: str = "auto",
    work: Path | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> Calibration:
    """Run the calibration text through the model, one layer at a time.

    `file` is JSON lines (see `texts.read_texts`); without it the built-in text is used. `smooth`
    searches INT4 smoothing scales. `device` is `cpu`, `cuda` or `auto`. `work`, an existing
    directory, keeps what is done after each layer; a run with the same arguments goes on from
    there. `on_layer` is called with the number of layers done. Raises `BadInputError` for an
    unusable file or a missing package.
    """
    source, sequences = read_sequences(checkpoint, file)
    result = Calibration(source, len(sequences), sum(map(len, sequences)))
    _restore(work, result)
    for layer in layers(checkpoint, sequences, device=device_named(device), work=work):
        _one_layer(layer, checkpoint, recipe, smooth, result)
        _keep(work, result)
        if on_layer:
            on_layer(layer.index + 1)
    return result


def device_named(name: str) -> str:
    """The torch device that `--device` names. Raises `UsageError`, or `BadInputError` where it is
    not available."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name!r} is unknown; use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadInputError(
            "--device cuda: torch finds no CUDA device on this machine; use --device cpu"
        )
    return "cuda" if available and name != "cpu" else "cpu"


def _one_layer(
    layer: Layer, checkpoint: Checkpoint, recipe: Recipe, smooth: bool, result: Calibration
) -> None:
    """Collect from one layer, and leave its outputs as the next one's inputs."""
    if layer.letter == "E":
        if smooth:
            assert recipe.expert_format is not None, "smoothed experts have one format"
            smooth_layer(layer, recipe.expert_format.group_size, result.folding)
        counts = _count_tokens(layer)  # from here on: the search has used the router too
    scaled = [
        group
        for group in checkpoint.model.tensors()
        if group.layer == layer.index
        and (kind := recipe.format_of(group))
        and kind.scales_activations
    ]
    if scaled or (recipe.scales_kv and layer.letter == "*"):
        outputs, amax = _ranges(layer)
        result.amax |= _by_tensor(layer, scaled, recipe.scales_kv, amax)
    else:
        outputs = layer.run()
    if layer.letter == "E":
        result.expert_tokens[layer.index] = counts()
    layer.inputs = outputs


def _count_tokens(layer: Layer) -> Callable[[], list[int]]:
    """Count the tokens routed to each expert from now on; the result ends the counting."""
    total = torch.zeros(layer.block.mixer.experts.num_experts, dtype=torch.long)

    def count(module: nn.Module, arguments: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        total.add_(torch.bincount(output[2].flatten().cpu(), minlength=len(total)))

    hook = layer.block.mixer.gate.register_forward_hook(count)

    def finish() -> list[int]:
        hook.remove()
        return [int(value) for value in total]

    return finish


def _ranges(layer: Layer) -> tuple[list[Tensor], dict[str, float]]:
    """The layer's outputs, and the ranges that ModelOpt's quantizers saw, by quantizer name."""
    require("modelopt", purpose="calibrating FP8")
    import modelopt.torch.quantization as mtq

    outputs: list[Tensor] = []
    holder = nn.ModuleDict({"block": layer.block})
    e4m3 = {"num_bits": (4, 3), "axis": None}
    names = ["*", "*input_quantizer", "*k_proj.output_quantizer", "*v_proj.output_quantizer"]
    rows = [{"quantizer_name": name, "cfg": e4m3, "enable": name != "*"} for name in names]
    config = {"quant_cfg": rows, "algorithm": "max"}
    # ModelOpt prints what it does to standard output, which belongs to our own result.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        mtq.quantize(holder, config, lambda _: outputs.extend(layer.run()))
    ranges = {
        name: float(module.amax)
        for name, module in holder.named_modules()
        if name.endswith(("input_quantizer", "output_quantizer"))
        and getattr(module, "amax", None) is not None
    }
    return outputs, ranges


def _by_tensor(
    layer: Layer, scaled: Sequence[TensorGroup], scales_kv: bool, ranges: Mapping[str, float]
) -> dict[str, float]:
    """Ranges by hub tensor name. The experts of a layer share one quantizer per projection."""
    prefix = f"backbone.layers.{layer.index}."
    seen = {}
    for name, amax in ranges.items():
        match = QUANTIZER.fullmatch(name)
        if match:
            seen[prefix + match["owner"], match["side"]] = amax
    by_tensor: dict[str, float] = {}
    for group in scaled:
        owner = group.template.removesuffix(".weight").replace(".experts.{}.", ".experts.")
        if (owner, "input") in seen:
            by_tensor |= dict.fromkeys(group.names(), seen[owner, "input"])
    for key in ("k", "v") if scales_kv else ():
        name = f"{prefix}mixer.{key}_proj"
        if (name, "output") in seen:
            by_tensor[f"{name}.{key}_scale"] = seen[name, "output"]
    return by_tensor


def _keep(work: Path | None, result: Calibration) -> None:
    """Save the results of the layers so far. This comes before saving the layer's outputs, because
    calibrating a layer twice gives the same result."""
    if work is None:
        return
    from safetensors.torch import save

    folding = result.folding
    tensors = {f"inputs/{name}": scale for name, scale in folding.inputs.items()}
    tensors |= {f"outputs/{name}": scale for name, scale in folding.outputs.items()}
    facts = {
        "amax": result.amax,
        "expert_tokens": result.expert_tokens,
        "choices": [asdict(choice) for choice in folding.choices.values()],
    }
    tensors = {name: scale.clone() for name, scale in tensors.items()}  # some are shared
    content = save(tensors, metadata={"found": json.dumps(facts)})
    write_atomically(work / KEPT, content)


def _restore(work: Path | None, result: Calibration) -> None:
    """Fill `result` with what an earlier run saved."""
    if work is None or not (work / KEPT).is_file():
        return
    from safetensors import safe_open

    with safe_open(work / KEPT, "pt") as file:
        facts = json.loads(file.metadata()["found"])
        for key in file.keys():  # noqa: SIM118  no mapping
            side, _, name = key.partition("/")
            getattr(result.folding, side)[name] = file.get_tensor(key)
    result.amax = facts["amax"]
    result.expert_tokens = {int(layer): row for layer, row in facts["expert_tokens"].items()}
    result.folding.choices = {row["layer"]: Choice(**row) for row in facts["choices"]}
