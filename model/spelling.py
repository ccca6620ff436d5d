"""Read tensor names as people's tools spell them, and drop what is known to be surplus.

Trainers wrap modules, transformers renames them and stacks experts, and savers keep buffers. What
such a checkpoint means is certain, so it is read under the names of NVIDIA's checkpoints. The
mapping is injective: two tensors for one name are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..core.errors import BadInputError
from .architecture import EMBEDDING, HEAD, Model
from .headers import MAX_TENSORS, TensorInfo

UNQUANTIZED_DTYPES: Final = ("BF16", "F16", "F32")

_ROOT: Final = "backbone."
_WRAPPERS: Final = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
    r"|module)\."
)
"""What torch.compile, FSDP, activation checkpointing, DeepSpeed and DDP put into names."""

IN_LAYER: Final = re.compile(r"(|.*?\.)layers\.\d+\.(?:norm|mixer)\.")
_PARTS: Final = re.compile(
    r"(?:layers|embeddings?|embed_tokens|word_embeddings|norm|norm_f|final_layernorm|rotary_emb)\."
)
_ALIASES: Final[Mapping[str, str]] = {
    "embedding.weight": "embeddings.weight",
    "embed_tokens.weight": "embeddings.weight",
    "word_embeddings.weight": "embeddings.weight",
    "norm.weight": "norm_f.weight",
    "final_layernorm.weight": "norm_f.weight",
}
"""Other spellings of what stands beside the layers."""

_STACK: Final = re.compile(r"(.*\.mixer\.experts)\.((?:up|down)_proj)(?:\.weight)?")

_KV_SCALE: Final = re.compile(
    r"(?P<mixer>.*\.mixer)\.(?:(?:attn\.)?(?P<side>[kv])_scale|(?P<of>[kv])_proj\.output_scale)"
)
"""Scales of an FP8 KV cache as vLLM, llm-compressor and older releases of ModelOpt spell them."""

_BUFFER: Final = re.compile(r"(?:.*\.)?(?:rotary_emb\.\w+|position_ids)")
_TOWER: Final = re.compile(
    r"(?:model\.)?(?:vision\w*|visual|radio\w*|image\w*|mlp1|multi_modal_projector|mm_projector"
    r"|sound\w*|audio\w*|speech\w*|perception)\."
)
"""Encoders and projectors of the Omni and VL variants, whose language model is this family's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a checkpoint's tensors are read.

    `tensors` are by canonical name, `model` is the configured one without MTP layers that were
    stripped, `dropped` is the known surplus by name, and `notes` say in a line each what differs
    from a plain spelling.
    """

    tensors: Mapping[str, TensorInfo]
    model: Model
    dropped: Mapping[str, TensorInfo]
    notes: tuple[str, ...]


def read_names(stored: Mapping[str, TensorInfo], model: Model) -> Reading:
    """Map the names of `stored` tensors to those of `model`, and leave out known surplus.

    Raises `BadInputError` where two tensors have one meaning, or stacks hold too many.
    """
    expected = {name for group in model.tensors() for name in group.names()}
    if stored.keys() == expected:
        return Reading(stored, model, {}, ())
    prefix = _prefix(stored)
    named: dict[str, TensorInfo] = {}
    aliases: set[str] = set()
    stacks = 0
    for info in stored.values():
        name = info.name if info.name in expected else _canonical(info.name, prefix)
        if name.removeprefix(_ROOT) in _ALIASES.values() and not info.name.endswith(
            name.removeprefix(_ROOT)
        ):
            aliases.add(f"{info.name} is read as {name}")
        parts = list(_slices(replace(info, name=name), model))
        stacks += len(parts) > 1
        for part in parts or [replace(info, name=name)]:
            if part.name in named:
                raise BadInputError(
                    f"{info.shard}: tensor {info.name} and another one are both {part.name}"
                )
            named[part.name] = part
        if len(named) > MAX_TENSORS:
            raise BadInputError(f"{info.shard}: its stacked experts make over {MAX_TENSORS}")
    notes = list(_spelled(stored, prefix, aliases))
    if stacks:
        notes.append(f"{stacks} tensors of stacked experts are read expert by expert")
    return _without_surplus(named, model, expected, notes)


def _spelled(stored: Iterable[str], prefix: str | None, aliases: Iterable[str]) -> Iterator[str]:
    """What of the `stored` names is spelled in another way, a line each."""
    if prefix not in (None, _ROOT):
        yield f"names beginning with {prefix!r} are read as {_ROOT!r}"
    if any(_WRAPPERS.search(name) for name in stored):
        yield "parts of names that torch's wrappers add are left out"
    yield from sorted(aliases)[:5]
    if scales := sum(map(bool, map(_KV_SCALE.fullmatch, stored))):
        yield f"{scales} scales of the KV cache are read as `k_proj.k_scale` and `v_proj.v_scale`"


def _prefix(names: Iterable[str]) -> str | None:
    """What stands before `layers.` in most names, None where no name has layers."""
    counts: Counter[str] = Counter()
    for name in names:
        match = IN_LAYER.match(_WRAPPERS.sub("", name))
        if match and not match[1].endswith("mtp."):
            counts[match[1]] += 1
    return counts.most_common(1)[0][0] if counts else None


def _canonical(name: str, prefix: str | None) -> str:
    """`name` as NVIDIA's checkpoints spell it, or unchanged where it is no part of the model."""
    if prefix is None:
        return name
    plain = _WRAPPERS.sub("", name)
    if plain.startswith(prefix):
        rest = plain.removeprefix(prefix)
        if scale := _KV_SCALE.fullmatch(rest):
            side = scale["side"] or scale["of"]
            return f"{_ROOT}{scale['mixer']}.{side}_proj.{side}_scale"
        if _PARTS.match(rest):
            return _ROOT + _ALIASES.get(rest, rest)
    components = prefix.split(".")
    for length in range(len(components) - 1, -1, -1):
        outer = "".join(f"{part}." for part in components[:length])
        rest = plain.removeprefix(outer)
        if plain.startswith(outer) and rest.startswith(("lm_head.", "mtp.")):
            return rest
    return name


def _slices(info: TensorInfo, model: Model) -> Iterator[TensorInfo]:
    """The experts that the tensor `info` stacks along its first dimension; none if it is no stack
    or holds so many that it cannot be one of this model."""
    match = _STACK.fullmatch(info.name)
    if not match or len(info.shape) != 3 or info.dtype not in UNQUANTIZED_DTYPES:
        return
    count = info.shape[0]
    if model.moe is None or not 0 < count <= 2 * model.moe.num_experts:
        return
    step = info.bytes // count
    for index in range(count):
        start = info.start + index * step
        yield TensorInfo(
            f"{match[1]}.{index}.{match[2]}.weight",
            info.dtype,
            info.shape[1:],
            info.shard,
            start,
            start + step,
        )


def _without_surplus(
    named: Mapping[str, TensorInfo], model: Model, expected: set[str], notes: list[str]
) -> Reading:
    dropped: dict[str, TensorInfo] = {}
    kinds: Counter[str] = Counter()
    for name, info in named.items():
        kind = None if name in expected else _surplus(info, named, model)
        if kind:
            dropped[name] = info
            kinds[kind] += 1
    notes += [f"left out: {kind} ({count})" for kind, count in kinds.items()]
    if model.mtp_steps and not any(name.startswith("mtp.") for name in named):
        config = dict(model.config) | {"num_nextn_predict_layers": 0}
        model = replace(model, mtp_pattern="", mtp_steps=0, config=config)
        notes.append("the configured MTP layers were stripped from the weights: read without them")
    kept = {name: info for name, info in named.items() if name not in dropped}
    return Reading(kept, model, dropped, tuple(notes))


def _surplus(info: TensorInfo, named: Mapping[str, TensorInfo], model: Model) -> str | None:
    """What kind of known surplus `info` is, if any."""
    if info.name == HEAD and model.tied:
        embedding = named.get(EMBEDDING)
        same = embedding and (info.dtype, info.shape) == (embedding.dtype, embedding.shape)
        return "output head, which is tied to the embedding" if same else None
    if _BUFFER.fullmatch(info.name):
        return "rotary and position buffers, which are no weights"
    if info.name.startswith("mtp.") and not model.mtp_steps:
        return "tensors of MTP layers that config.json does not configure"
    if _TOWER.match(info.name):
        return "tensors of encoders for images or sound; only the language model is read"
    return None
