"""What the configuration files of a checkpoint say about its quantization.

Every producer writes a form of its own, and files are left over or damaged. So this decides
nothing: the tensors do (`quantized.py`), and what is declared is compared with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..core.untrusted import read_json
from ..runtime.untrusted import brief
from .module_patterns import PatternError, globs_of, is_glob, matches
from .weight_format import COMPRESSED_TENSORS, INTEGER_BITS, MODELOPT, ROW, WeightFormat

HF_QUANT_CONFIG: Final = "hf_quant_config.json"
"""ModelOpt's own file, beside `config.json`. TensorRT-LLM reads it first."""

_NVFP4: Final = WeightFormat("nvfp4", 16)

_ALGORITHMS: Final[Mapping[str, WeightFormat]] = {
    "FP8": WeightFormat("fp8"),
    "W4A16_AWQ": WeightFormat("int4", 128),
    "W8A16": WeightFormat("int8", ROW),
    "W4A16_NVFP4": _NVFP4,
    "NVFP4": replace(_NVFP4, inputs=True),
}
"""ModelOpt's name of a format, and ours with ModelOpt's default group."""

_TYPES: Final[Mapping[tuple[str, int], WeightFormat]] = {
    ("int", 4): WeightFormat("int4", 128),
    ("int", 8): WeightFormat("int8", ROW),
    ("float", 8): WeightFormat("fp8"),
    ("float", 4): _NVFP4,
}
"""Type and bits of weights in `config_groups`, and our name of the format."""

FP8_KV: Final = "FP8"
"""What `Declared.kv_cache` is for an FP8 KV cache."""

_METHODS: Final[Mapping[str, str]] = {
    MODELOPT: "ModelOpt", "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes",
}  # fmt: skip

_MAX_GLOBS: Final = 2_000

_LARGEST_GROUP: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Declared:
    """What `quantization_config` or `hf_quant_config.json` says.

    `method` is the quantizer's key, `producer` its name with the version, `algorithm` what it calls
    the format; each is empty where it is not given. `formats` are ours for what is declared.
    `integer_inputs` is whether inputs of INT8 or INT4 weights are quantized, too. `kv_cache` is
    what the KV cache is quantized as, empty for none.
    `modules` are ModelOpt's formats of single modules, `targets` the modules of each format in
    `config_groups`, of which `Linear` are all others, and `excluded` are modules that are not
    quantized: names and globs. `unusable` is what about all this cannot be used, empty for nothing.
    """

    method: str = ""
    producer: str = ""
    algorithm: str = ""
    formats: frozenset[WeightFormat] = frozenset()
    integer_inputs: bool = False
    kv_cache: str = ""
    modules: Mapping[str, WeightFormat | None] | None = None
    targets: tuple[tuple[frozenset[str], WeightFormat], ...] = ()
    excluded: frozenset[str] = frozenset()
    unusable: str = ""

    def format_of(self, module: str) -> WeightFormat | None:
        """The format that is declared of a module, None for an unquantized one."""
        names = (module, module.replace("backbone.", "model.", 1))
        if self.modules is not None:
            return next((self.modules[name] for name in names if name in self.modules), None)
        if _covers(self.excluded, names):
            return None
        for patterns, kind in self.targets:
            if _covers(patterns, names):
                return kind
        return next((kind for patterns, kind in self.targets if _LINEAR in patterns), None)


_LINEAR: Final = "Linear"
"""The class of modules that `config_groups` target where they name no single ones."""


def _covers(patterns: frozenset[str], names: Iterable[str]) -> bool:
    """Whether one of the names is among `patterns`, or one of the globs there matches it."""
    globs = tuple(filter(is_glob, patterns))
    return any(name in patterns or matches(name, globs) for name in names)


def declared(path: Path, config: Mapping[str, Any]) -> Declared | None:
    """What the files in the directory `path` say, of which `config` is `config.json`; None where
    they say nothing. Null and empty entries count as absent. Raises `BadInputError` for an
    `hf_quant_config.json` that is no JSON object."""
    entry = _object(config.get("quantization_config")) or _object(config.get("compression_config"))
    beside = read_json(path / HF_QUANT_CONFIG) if (path / HF_QUANT_CONFIG).is_file() else {}
    # Either file may have the other's form; where both are there, each fills what the other lacks.
    entry = _flat(entry)
    own = _flat(beside)
    if not entry and not own:
        return None
    method = _text(entry.get("quant_method")).lower() or (MODELOPT if own else "")
    if method in ("compressed_tensors", COMPRESSED_TENSORS):
        return _compressed(entry)
    if method == MODELOPT or (not method and "quant_algo" in entry):
        return _modelopt({**entry, **own})
    return Declared(
        method=method,
        producer=_METHODS.get(method, brief(method)),
        algorithm=_text(entry.get("quant_algo")) or method,
    )


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose fields stand under `quantization`, as in `hf_quant_config.json`, or beside."""
    return {**entry, **_object(entry.get("quantization"))}


def _modelopt(entry: Mapping[str, Any]) -> Declared:
    algorithm = _text(entry.get("quant_algo"))
    layers = {
        name: _modelopt_format(_object(row))
        for name, row in _object(entry.get("quantized_layers")).items()
    }
    schemes = list(_schemes(entry))
    whole = _modelopt_format(entry)
    targets, excluded, unusable = _modules(
        schemes, entry.get("exclude_modules") or entry.get("ignore")
    )
    if whole:
        targets = ((frozenset({_LINEAR}), whole),)
    formats = set(layers.values()) or {kind for _, kind in targets}
    if entry.get("pre_quant_scale") is True:
        unusable = "AWQ with scales of inputs"
    return Declared(
        method=MODELOPT,
        producer=_producer(entry, _METHODS[MODELOPT]),
        algorithm=algorithm,
        formats=frozenset(kind for kind in formats if kind),
        integer_inputs=any(map(_integer_inputs, schemes)),
        kv_cache=_kv_cache(entry),
        modules=layers or None,
        targets=targets,
        excluded=excluded,
        unusable=unusable,
    )


def _modelopt_format(entry: Mapping[str, Any]) -> WeightFormat | None:
    """The format of an entry that names ModelOpt's algorithm."""
    kind = _ALGORITHMS.get(_text(entry.get("quant_algo")))
    return _in_groups(kind, entry.get("group_size")) if kind else None


def _in_groups(kind: WeightFormat, size: object) -> WeightFormat:
    """An integer format with the group size that is declared, if one is."""
    if kind.key not in INTEGER_BITS or not isinstance(size, int) or size > _LARGEST_GROUP:
        return kind
    return replace(kind, group_size=max(size, ROW))


def _kv_cache(entry: Mapping[str, Any]) -> str:
    """What the KV cache is quantized as."""
    if named := _text(entry.get("kv_cache_quant_algo")):
        return named.upper()
    scheme = _object(entry.get("kv_cache_scheme"))
    if not scheme:
        return ""
    kind, bits = _text(scheme.get("type")), scheme.get("num_bits")
    return FP8_KV if (kind, bits) == ("float", 8) else f"{bits} bits".upper()


def _compressed(entry: Mapping[str, Any]) -> Declared:
    schemes = list(_schemes(entry))
    version = _text(entry.get("version"))
    sparsity = _text(_object(entry.get("sparsity_config")).get("format"))
    targets, excluded, unread = _modules(schemes, entry.get("ignore"))
    problems = [problem for scheme in schemes if (problem := _unusable(scheme))]
    problems += ["2:4 sparse weights"] if sparsity not in ("", "dense") else []
    return Declared(
        method=COMPRESSED_TENSORS,
        producer=" ".join((COMPRESSED_TENSORS, version)).strip(),
        algorithm=_text(entry.get("format")) or COMPRESSED_TENSORS,
        formats=frozenset(kind for scheme in schemes if (kind := _format(scheme))),
        integer_inputs=any(map(_integer_inputs, schemes)),
        kv_cache=_kv_cache(entry),
        targets=targets,
        excluded=excluded,
        unusable=next(iter(problems), unread),
    )


def _unusable(scheme: Mapping[str, Any]) -> str:
    """What about a scheme of `compressed-tensors` cannot be used, empty for nothing."""
    weights, inputs = _object(scheme.get("weights")), _object(scheme.get("input_activations"))
    kind, strategy = _format(scheme), _text(weights.get("strategy"))
    if kind is None:
        return f"weights of {brief(str(weights.get('num_bits')))} bits"
    if kind.key == "nvfp4":
        return "NVFP4 in the layout of compressed-tensors"
    if weights.get("symmetric") is False:
        return "asymmetric integers"
    if weights.get("actorder") in (True, "group"):
        return "integers in the order of activations (act-order)"
    if kind.key == "fp8" and strategy not in ("", "tensor"):
        return f"FP8 with a scale for each {strategy}"
    if kind.key == "fp8" and (not inputs or inputs.get("dynamic") is not False):
        return "FP8 without scales of its inputs"
    return ""


Targets = tuple[tuple[frozenset[str], WeightFormat], ...]


def _modules(
    schemes: Iterable[Mapping[str, Any]], ignored: object
) -> tuple[Targets, frozenset[str], str]:
    """The modules of each scheme with its format, those that are not quantized, and what is wrong
    with the patterns that say so."""
    kinds = [(scheme, _format(scheme)) for scheme in schemes]
    try:
        targets = tuple((_globs(scheme.get("targets")), kind) for scheme, kind in kinds if kind)
        return targets, _globs(ignored), ""
    except PatternError as error:
        return (), frozenset(), f"modules by the pattern {brief(str(error))}"


def _globs(patterns: object) -> frozenset[str]:
    """Patterns of modules as names and globs. Raises `PatternError`."""
    globs = [glob for text in _texts(patterns) for glob in globs_of(text)]
    named = {glob for glob in globs if not is_glob(glob)}
    return frozenset(named | set(list(filter(is_glob, globs))[:_MAX_GLOBS]))


def _schemes(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for scheme in _object(entry.get("config_groups")).values():
        yield _object(scheme)


def _format(scheme: Mapping[str, Any]) -> WeightFormat | None:
    weights = _object(scheme.get("weights"))
    bits = weights.get("num_bits")
    kind = _TYPES.get((_text(weights.get("type")), bits if isinstance(bits, int) else 0))
    if kind == _NVFP4:
        return replace(kind, inputs=bool(scheme.get("input_activations")))
    rows = weights.get("strategy") == "channel"
    return _in_groups(kind, ROW if rows else weights.get("group_size")) if kind else None


def _integer_inputs(scheme: Mapping[str, Any]) -> bool:
    weights = _object(scheme.get("weights"))
    return weights.get("type") == "int" and bool(scheme.get("input_activations"))


def _producer(entry: Mapping[str, Any], name: str) -> str:
    producer = _object(entry.get("producer"))
    own = _text(producer.get("name"))
    called = name if own.lower() in ("", MODELOPT) else own
    return f"{called} {_text(producer.get('version'))}".strip()


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """`value` if it is a short text without control characters, else nothing."""
    return value if isinstance(value, str) and re.fullmatch(r"[ -~]{1,60}", value) else ""


def _texts(value: object) -> Iterable[str]:
    return (item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
