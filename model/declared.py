"""What the configuration files of a checkpoint say about its quantization.

Every producer writes a form of its own, and files are left over or damaged. So this decides
nothing: the tensors do (`quantized.py`), and what is declared is compared with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ..core.untrusted import read_json
from ..runtime.untrusted import brief

HF_QUANT_CONFIG: Final = "hf_quant_config.json"
"""ModelOpt's own file, beside `config.json`. TensorRT-LLM reads it first."""

MODELOPT: Final = "modelopt"
COMPRESSED_TENSORS: Final = "compressed-tensors"
"""Methods whose checkpoints are read; also the keys of the layouts."""

_ALGORITHMS: Final[Mapping[str, str]] = {
    "FP8": "fp8", "W4A16_AWQ": "int4", "W8A16": "int8", "W4A16_NVFP4": "nvfp4", "NVFP4": "nvfp4",
}  # fmt: skip
"""ModelOpt's name of a format, and ours."""

_TYPES: Final[Mapping[tuple[str, int], str]] = {
    ("int", 4): "int4", ("int", 8): "int8", ("float", 8): "fp8", ("float", 4): "nvfp4",
}  # fmt: skip
"""Type and bits of weights in `config_groups`, and our name of the format."""

_METHODS: Final[Mapping[str, str]] = {
    MODELOPT: "ModelOpt", "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes",
}  # fmt: skip

_MAX_GLOBS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Declared:
    """What `quantization_config` or `hf_quant_config.json` says.

    `method` is the quantizer's key, `producer` its name with the version, `algorithm` what it calls
    the format; each is empty where it is not given. `formats` are ours for what is declared.
    `integer_inputs` is whether inputs of INT8 or INT4 weights are quantized, too, and `sparsity`
    the format of sparse weights. `modules` are the formats of single modules, `excluded` patterns
    of modules that are not quantized; both are ModelOpt's.
    """

    method: str = ""
    producer: str = ""
    algorithm: str = ""
    formats: frozenset[str] = frozenset()
    integer_inputs: bool = False
    sparsity: str = ""
    modules: Mapping[str, str] | None = None
    excluded: tuple[str, ...] = ()

    def format_of(self, module: str) -> str | None:
        """The format that ModelOpt's entry gives to a module, None for an unquantized one."""
        names = (module, module.replace("backbone.", "model.", 1))
        if self.modules is not None:
            return next((self.modules[name] for name in names if name in self.modules), None)
        if any(name in self.excluded for name in names):
            return None
        globs = [pattern for pattern in self.excluded if set(pattern) & set("*?[")]
        if any(fnmatchcase(name, glob) for glob in globs[:_MAX_GLOBS] for name in names):
            return None
        return next(iter(self.formats), None)


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
        name: _ALGORITHMS.get(_text(_object(row).get("quant_algo")), "")
        for name, row in _object(entry.get("quantized_layers")).items()
    }
    schemes = list(_schemes(entry))
    formats = {_ALGORITHMS[algorithm]} if algorithm in _ALGORITHMS else set(map(_format, schemes))
    excluded = entry.get("exclude_modules") or entry.get("ignore") or ()
    return Declared(
        method=MODELOPT,
        producer=_producer(entry, _METHODS[MODELOPT]),
        algorithm=algorithm,
        formats=frozenset((set(layers.values()) or formats) - {""}),
        integer_inputs=any(map(_integer_inputs, schemes)),
        modules=layers or None,
        excluded=tuple(_texts(excluded)),
    )


def _compressed(entry: Mapping[str, Any]) -> Declared:
    schemes = list(_schemes(entry))
    version = _text(entry.get("version"))
    return Declared(
        method=COMPRESSED_TENSORS,
        producer=" ".join((COMPRESSED_TENSORS, version)).strip(),
        algorithm=_text(entry.get("format")) or COMPRESSED_TENSORS,
        formats=frozenset(map(_format, schemes)) - {""},
        integer_inputs=any(map(_integer_inputs, schemes)),
        sparsity=_text(_object(entry.get("sparsity_config")).get("format")),
    )


def _schemes(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for scheme in _object(entry.get("config_groups")).values():
        yield _object(scheme)


def _format(scheme: Mapping[str, Any]) -> str:
    weights = _object(scheme.get("weights"))
    bits = weights.get("num_bits")
    return _TYPES.get((_text(weights.get("type")), bits if isinstance(bits, int) else 0), "")


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
