"""Coverage-guided fuzzing of what reads a checkpoint, with atheris (libFuzzer).

    python fuzz.py TARGET SECONDS [CORPUS]

Contract of every target: whatever the bytes, the answer is a result that keeps its promises, or an
error that names what is wrong. Anything else is a crash, whose input libFuzzer keeps.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["nemotron_deploy", "json"]):
    from nemotron_deploy.core.errors import BadInputError, RefusedError
    from nemotron_deploy.model import contents, headers, shards
    from nemotron_deploy.model.catalog import TINY
    from nemotron_deploy.model.config import read_model
    from nemotron_deploy.model.fields import MAX_LAYERS
    from nemotron_deploy.runtime import untrusted

SHARD = Path("model.safetensors")
SPARE = 1 << 20
"""Bytes that the file claims to have beyond its header."""

DTYPES = ("U8", "BF16", "F32", "F64", "F8_E4M3", "I64", "BOOL", "x")


def grown(data: bytes, source: dict[str, Any]) -> bytes:
    """JSON that is nearly right: `source` with a few values exchanged, as `data` says.

    Single bytes seldom turn one JSON text into another; this gets past the parser.
    """
    provider = atheris.FuzzedDataProvider(data)
    fields = copy.deepcopy(source)
    for _ in range(provider.ConsumeIntInRange(1, 4)):
        holder: Any = fields
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = keys[provider.ConsumeIntInRange(0, len(keys) - 1)]
            inner = holder[key]
            if isinstance(inner, dict | list) and inner and provider.ConsumeBool():
                holder = inner
                continue
            holder[key] = _value(provider, inner)
            break
    return json.dumps(fields).encode()


def _value(provider: atheris.FuzzedDataProvider, old: Any) -> Any:
    kind = provider.ConsumeIntInRange(0, 9)
    if kind == 0 and isinstance(old, int):
        return old + provider.ConsumeIntInRange(-2, 2)
    if kind == 1:
        return provider.PickValueInList(list(DTYPES))
    if kind == 2:
        return provider.ConsumeInt(9)
    if kind == 3:
        return provider.ConsumeUnicodeNoSurrogates(12)
    if kind == 4:
        return provider.PickValueInList([None, True, [], {}, 0.5, -1, 2**63, "../x.safetensors"])
    if kind == 5:
        return [
            provider.ConsumeIntInRange(0, SPARE) for _ in range(provider.ConsumeIntInRange(0, 3))
        ]
    if kind == 6 and isinstance(old, str):
        return old * provider.ConsumeIntInRange(0, 3)
    return provider.ConsumeIntInRange(0, 2**16)


def header(data: bytes) -> None:
    """Tensors lie inside the file, one after the other, as long as dtype and shape say."""
    size = 8 + len(data) + SPARE
    try:
        found = headers.parse_header(SHARD, size, data)
    except BadInputError:
        return
    position = 8 + len(data)
    for info in found.values():
        assert info.start == position, "a hole or an overlap"
        position = info.end
    assert position == size, "bytes that belong to nothing"


def index(data: bytes) -> None:
    """Shards are files of the same directory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / contents.INDEX_NAME).write_bytes(data)
        try:
            names, _ = shards.find_shards(path)
        except BadInputError:
            return
        assert names
        assert all(Path(name).name == name and name.endswith(".safetensors") for name in names)


def config(data: bytes) -> None:
    """A model whose tensors can be listed, sizes counted."""
    try:
        fields = untrusted.parse_json(data)
    except ValueError:
        return
    if not isinstance(fields, dict):
        return
    try:
        model = read_model(fields, "fuzzed")
    except (BadInputError, RefusedError):
        return
    assert model.parameters_total >= model.parameters_active > 0
    assert len(model.pattern) <= MAX_LAYERS


TARGETS: dict[str, Callable[[bytes], None]] = {"header": header, "index": index, "config": config}


def sources(target: str) -> list[dict[str, Any]]:
    """Real inputs to begin with."""
    if target == "config":
        return [json.loads((TINY / "config.json").read_bytes())]
    with (TINY / "model.safetensors").open("rb") as file:
        found = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if target == "index":
        names = [name for name in found if name != "__metadata__"][:4]
        return [{"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}]
    half = SPARE // 2
    return [
        {
            "a": {"dtype": "U8", "shape": [2, half // 2], "data_offsets": [0, half]},
            "b": {"dtype": "F32", "shape": [half // 4], "data_offsets": [half, SPARE]},
        },
        found,
    ]


def main(target: str, seconds: str, corpus: Path) -> None:
    """Fuzz one target; libFuzzer ends the process, with an error if anything crashed."""
    corpus.mkdir(parents=True, exist_ok=True)
    starts = sources(target)
    for number, start in enumerate(starts):
        (corpus / f"seed-{number}").write_bytes(b"\1" + json.dumps(start).encode())
    check = TARGETS[target]

    def one(data: bytes) -> None:
        """The first byte says whether the rest is taken as it is, or as changes to a real one."""
        if not data or data[0] & 1:
            check(data[1:])
        else:
            check(grown(data[1:], starts[data[0] // 2 % len(starts)]))

    options = [f"-max_total_time={seconds}", "-max_len=8192", f"-artifact_prefix={corpus}-crash-"]
    options += ["-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1", "-close_fd_mask=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]) if sys.argv[3:] else Path(tempfile.mkdtemp()))
