"""Say in words how a checkpoint differs from its configuration, and what that may mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from .architecture import EMBEDDING, HEAD, Model
from .headers import TensorInfo
from .spelling import IN_LAYER

_EXPERT: Final = re.compile(r"((?:backbone|mtp)\.layers\.(\d+)\.mixer)\.experts\.(\d+)\.")
_LAYER: Final = re.compile(r"backbone\.layers\.(\d+)\.")
_ADAPTER: Final = re.compile(r".*(?:\.lora_(?:A|B|embedding_A|embedding_B)\b|\.base_layer\.).*")


def differences(tensors: Mapping[str, TensorInfo], model: Model) -> tuple[str, ...]:
    """How names and shapes of `tensors` differ from those `model` calls for: a diagnosis first
    where there is one, then the first tensor of each kind. Empty where they agree."""
    expected = {name: group.shape for group in model.tensors() for name in group.names()}
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    misshapen = [
        name for name, info in tensors.items() if info.shape != expected.get(name, info.shape)
    ]
    if not (missing or unknown or misshapen):
        return ()
    said = [
        *_adapters(unknown),
        *_prefixes(unknown),
        *_layers(tensors, model),
        *_experts(tensors, missing, unknown, model),
        *_head(missing, unknown, tensors, model),
        *_vocabulary(tensors, misshapen, model),
    ]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        guess = "" if said or unknown else "; is a shard or the index incomplete?"
        said.append(f"tensor {missing[0]} is missing{more}{guess}")
    if misshapen:
        info, shape = tensors[misshapen[0]], list(expected[misshapen[0]])
        more = f" ({len(misshapen) - 1} more differ)" if len(misshapen) > 1 else ""
        said.append(
            f"tensor {info.name} has shape {list(info.shape)}, but config.json calls for "
            f"{shape}{more}"
        )
    if unknown:
        more = f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else ""
        said.append(
            f"tensor {unknown[0]} is not part of a model with this config.json{more}"
            f" (in {tensors[unknown[0]].shard.name})"
        )
    return tuple(said)


def _adapters(unknown: list[str]) -> list[str]:
    if not any(map(_ADAPTER.fullmatch, unknown)):
        return []
    return ["an adapter is stored beside the weights it belongs to; merge it first (peft: "
            "`merge_and_unload()`)"]  # fmt: skip


def _prefixes(unknown: list[str]) -> list[str]:
    others = {match[1] for name in unknown if (match := IN_LAYER.match(name))} - {"backbone."}
    if not others:
        return []
    return [
        f"layers are stored under {min(others)!r} and under another prefix, too, as if two saves "
        "were mixed"
    ]


def _layers(tensors: Mapping[str, TensorInfo], model: Model) -> list[str]:
    stored = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    configured = len(model.pattern)
    absent = [number for number in range(configured) if number not in stored]
    if stored and max(stored) >= configured:
        return [f"layers up to {max(stored)} are stored, but config.json has {configured} layers"]
    if stored and absent:
        numbers = ", ".join(map(str, absent[:5])) + (", …" if len(absent) > 5 else "")
        return [f"{len(absent)} of {configured} layers are not stored at all ({numbers})"]
    return []


def _experts(
    tensors: Mapping[str, TensorInfo], missing: list[str], unknown: list[str], model: Model
) -> list[str]:
    if model.moe is None or model.layer_moes:
        return []
    affected = {match[1] for name in (*missing, *unknown) if (match := _EXPERT.match(name))}
    per_layer: dict[str, set[int]] = {}
    for name in tensors:
        if match := _EXPERT.match(name):
            per_layer.setdefault(match[1], set()).add(int(match[3]))
    configured = model.moe.num_experts
    counts = {
        layer: len(experts)
        for layer, experts in per_layer.items()
        if layer in affected and len(experts) != configured and experts == set(range(len(experts)))
    }
    if not counts:
        return _gaps(per_layer, affected, configured)
    common = max(counts.values())
    if len(counts) == len(per_layer) and set(counts.values()) == {common}:
        return [
            f"every layer stores {common} experts, but `n_routed_experts` is {configured}; if they "
            "were pruned, config.json must say so"
        ]
    layer = next(iter(counts))
    return [
        f"experts were pruned in {len(counts)} of {len(per_layer)} layers ({layer} has "
        f"{counts[layer]} of {configured}); models with another number of experts in each layer "
        "are not supported"
    ]


def _gaps(per_layer: Mapping[str, set[int]], affected: set[str], configured: int) -> list[str]:
    """The first layer that lacks experts between others, in words."""
    for layer in sorted(affected):
        absent = sorted(set(range(configured)) - per_layer.get(layer, set()))
        if absent:
            numbers = ", ".join(map(str, absent[:5])) + (", …" if len(absent) > 5 else "")
            return [
                f"{layer} lacks {len(absent)} of {configured} experts ({numbers}): pruned, or a "
                "shard is incomplete"
            ]
    return []


def _head(
    missing: list[str], unknown: list[str], tensors: Mapping[str, TensorInfo], model: Model
) -> list[str]:
    if HEAD in missing and EMBEDDING in tensors:
        return [
            "the output head was dropped, though `tie_word_embeddings` is false: if the head is "
            "the embedding, set it to true in config.json; otherwise save the model again with it"
        ]
    if HEAD in unknown and model.tied:
        return ["an output head of its own is stored, though `tie_word_embeddings` is true"]
    return []


def _vocabulary(tensors: Mapping[str, TensorInfo], misshapen: list[str], model: Model) -> list[str]:
    if EMBEDDING not in misshapen or len(tensors[EMBEDDING].shape) != 2:
        return []
    rows, width = tensors[EMBEDDING].shape
    if width != model.hidden_size or rows == model.vocab_size:
        return []
    if rows > model.vocab_size:
        return [
            f"the embedding has {rows} rows, but `vocab_size` is {model.vocab_size}: padded or "
            f"resized; set `vocab_size` to {rows} in config.json"
        ]
    return [f"the embedding has {rows} rows, fewer than the `vocab_size` of {model.vocab_size}"]
