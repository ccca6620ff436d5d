"""Checkpoints made to do harm, one maker each, by the classes M1 to M17 of known attacks.

Each maker gets a fresh copy of `tiny` to spoil. What is expected stands beside it: a piece of the
one message that must be the answer.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SHARD: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
NAME: Final = "backbone.embeddings.weight"
Maker = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`command` is what is run on the spoiled checkpoint; `says` must be in its message."""

    name: str
    make: Maker
    says: str
    command: str = "inspect"


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def header_length(length: int, size: int | None = None) -> Maker:
    def make(path: Path) -> None:
        with (path / SHARD).open("r+b") as file:
            file.write(struct.pack("<Q", length))
            if size:
                file.truncate(size)  # sparse: it takes no room

    return make


def header(text: bytes, data: int = 0) -> Maker:
    def make(path: Path) -> None:
        with (path / SHARD).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + data)

    return make


def entry(dtype: str = "U8", shape: str = "[0]", span: str = "[0,0]") -> bytes:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{span}}}'.encode()


def many_tensors(count: int) -> Maker:
    def make(path: Path) -> None:
        row = entry()
        header(b"{" + b",".join(b'"%d":%s' % (i, row) for i in range(count)) + b"}")(path)

    return make


def weight_map(change: Callable[[dict[str, str]], object]) -> Maker:
    def make(path: Path) -> None:
        with (path / SHARD).open("rb") as file:
            names = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        names.pop("__metadata__", None)
        shards = dict.fromkeys(names, "model-1.safetensors")
        change(shards)
        (path / SHARD).rename(path / "model-1.safetensors")
        (path / INDEX).write_text(json.dumps({"weight_map": shards}))

    return make


def config(**fields: Any) -> Maker:
    return lambda path: _edit(path / "config.json", lambda found: found.update(fields))


def config_text(text: bytes) -> Maker:
    return lambda path: (path / "config.json").write_bytes(text)


def truncated(path: Path) -> None:
    os.truncate(path / SHARD, (path / SHARD).stat().st_size - 4096)


def linked_to(name: str, target: str) -> Maker:
    def make(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)

    return make


def pipe(path: Path) -> None:
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")


class _Trace:
    """A pickle that would leave a file behind if it were loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path / "harmed"),)


def pickled(name: str) -> Maker:
    def make(path: Path) -> None:
        (path / SHARD).unlink()
        (path / name).write_bytes(pickle.dumps(_Trace(path)))

    return make


def starting_with(magic: bytes, name: str = SHARD) -> Maker:
    def make(path: Path) -> None:
        (path / SHARD).unlink()
        (path / name).write_bytes(magic + struct.pack("<QQ", 2**63, 2**63) + bytes(64))

    return make


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Maker:
    return lambda path: _edit(path / "tokenizer.json", change)


def _same_id(fields: dict[str, Any]) -> None:
    vocabulary = fields["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first] = vocabulary[second]


def _outside(fields: dict[str, Any]) -> None:
    fields["model"]["vocab"]["zzz"] = 2**40


def _contradicting(fields: dict[str, Any]) -> None:
    added = fields["added_tokens"][0]
    fields["added_tokens"].append({**added, "id": added["id"] + 1})


def _endless(fields: dict[str, Any]) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa|a0?)+$"}, "behavior": "Isolated"}
    fields["pre_tokenizer"] = {**pattern, "invert": False}


def _slow(fields: dict[str, Any]) -> None:
    pattern = {
        "type": "Split",
        "pattern": {"Regex": "a*[^a\\x00]a*[^a\\x00]"},
        "behavior": "Isolated",
    }
    steps = [{**pattern, "invert": False}] * 3000
    fields["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}


def _exploding(fields: dict[str, Any]) -> None:
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}] * 8
    fields["normalizer"] = {"type": "Sequence", "normalizers": steps}


def template(source: str) -> Maker:
    def make(path: Path) -> None:
        (path / "chat_template.jinja").write_text(source)
        turns = [{"role": "user", "content": "a"}]
        (path / "text.jsonl").write_text(json.dumps({"messages": turns}))

    return make


EMPTY: Final = b'{"a":' + entry() + b"}"

CASES: Final = (
    Case("M1 header longer than the file", header_length(2**40), "truncated"),
    Case("M1 header of zero bytes", header_length(0), "broken"),
    Case("M1 header of 2^64-1 bytes", header_length(2**64 - 1), "truncated"),
    Case("M1 header of 150 MB", header_length(150_000_000, 200_000_000), "longer than"),
    Case("M1 file of three bytes", lambda p: (p / SHARD).write_bytes(b"abc"), "truncated"),
    Case("M2 two million tensors", many_tensors(2_000_000), "longer than"),
    Case("M2 tensors of one range", many_tensors(120_000), "is missing", "quantize"),
    Case("M2 nested lists", header(b"[" * 500_000), "broken"),
    Case("M2 deep metadata", header(b'{"__metadata__":' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
         "broken"),
    Case("M3 hole", header(b'{"a":' + entry("U8", "[4]", "[4,8]") + b"}", 8), "hole or overlaps"),
    Case("M3 trailing bytes", header(EMPTY, 16), "16 bytes follow"),
    Case("M3 padding of NULs", header(EMPTY + bytes(8)), "broken"),
    Case("M3 a key twice", header(b'{"a":' + entry() + b',"a":' + entry() + b"}"), "twice"),
    Case("M3 shape that overflows",
         header(b'{"a":' + entry("F64", f"[{2**62},{2**62},4]", "[0,0]") + b"}"), "claims"),
    Case("M3 shape beyond 64 bits", header(b'{"a":' + entry("U8", f"[{10**30}]") + b"}"),
         "no whole numbers"),
    Case("M3 a number of 100,000 digits",
         header(b'{"a":' + entry("U8", "[" + "9" * 100_000 + "]") + b"}"), "broken"),
    Case("M3 name with control characters", header(b'{"a\\u001b[2J":' + entry() + b"}"),
         "control characters"),
    Case("M4 truncated shard", truncated, "truncated: its header calls for"),
    Case("M5 shard above the directory",
         weight_map(lambda m: m.update({NAME: "../secret.safetensors"})), "same directory"),
    Case("M5 absolute shard", weight_map(lambda m: m.update({NAME: "/etc/x.safetensors"})),
         "same directory"),
    Case("M5 shard that is no string", weight_map(lambda m: m.update({NAME: ["x"]})),  # type: ignore[dict-item]
         "same directory"),
    Case("M5 shard name with NUL", weight_map(lambda m: m.update({NAME: "a\0.safetensors"})),
         "no file name"),
    Case("M6 index names what is not there",
         weight_map(lambda m: m.update({"x": next(iter(m.values()))})), "tensor x of the index"),
    Case("M6 shard holds what the index does not name", weight_map(lambda m: m.pop(NAME)),
         f"tensor {NAME} is not in"),
    Case("M6 shard that is missing", weight_map(lambda m: m.update({NAME: "gone.safetensors"})),
         "gone.safetensors: this shard is missing"),
    Case("M8 shard is a link outwards", linked_to(SHARD, "/etc/hostname"), "outside"),
    Case("M8 tokenizer is a link outwards", linked_to("tokenizer.json", "/etc/passwd"), "outside"),
    Case("M8 configuration is a link to a device", linked_to("config.json", "/dev/zero"),
         "outside"),
    Case("M8 configuration is a pipe", pipe, "no regular file"),
    Case("M10 consent in the configuration", config(trust_remote_code=True), "trust_remote_code"),
    Case("M10 consent deeper down", config(text_config={"trust_remote_code": True}),
         "trust_remote_code"),
    Case("M10 widths beyond reason", config(hidden_size=10**15), "hidden_size"),
    Case("M10 negative widths", config(hidden_size=-1), "hidden_size"),
    Case("M10 a million layers",
         config(hybrid_override_pattern="M" * 10**6, num_hidden_layers=10**6),
         "hybrid_override_pattern"),
    Case("M10 a billion experts", config(n_routed_experts=10**9), "n_routed_experts"),
    Case("M10 numbers as text", config(hidden_size="128; import os"), "hidden_size"),
    Case("M10 configuration of 30 MB", config_text(b" " * 30_000_000 + b"{}"), "too large"),
    Case("M10 configuration that is no text", config_text(bytes(range(256))), "not readable"),
    Case("M10 NaN", config_text(b'{"a": NaN}'), "NaN"),
    Case("M11 a template that reaches for Python",
         template("{{ cycler.__init__.__globals__.os.mkdir('harmed') }}"), "SecurityError",
         "calibrate"),
    Case("M11 a template that changes what it is given",
         template("{{ messages.append(messages) }}"), "SecurityError", "calibrate"),
    Case("M12 a template that never ends",
         template("{% for a in range(99999) %}{% for b in range(99999) %}{%endfor%}{%endfor%}"),
         "it took more than", "calibrate"),
    Case("M12 a template that multiplies for ever", template("{{ 9 ** (messages|length * 9**9) }}"),
         "it took more than", "calibrate"),
    Case("M12 a template that needs a gigabyte", template("{{ 'a' * 10**9 }}"), "memory",
         "calibrate"),
    Case("M12 a template of 10 MB", template(" " * 10**7), "longer than", "calibrate"),
    Case("M13 a pattern that backtracks without end", tokenizer(_endless), "refused", "quantize"),
    Case("M13 patterns that take for ever", tokenizer(_slow), "it took more than", "quantize"),
    Case("M13 text that explodes", tokenizer(_exploding), "refused", "quantize"),
    Case("M14 two tokens with one id", tokenizer(_same_id), "share the id", "quantize"),
    Case("M14 an id outside of the model", tokenizer(_outside), "vocab_size", "quantize"),
    Case("M14 a token with two ids", tokenizer(_contradicting), "has the ids", "quantize"),
    Case("M15 pickle weights", pickled("pytorch_model.bin"), "pickle"),
    Case("M15 pickle by another name", pickled(SHARD), "pickle"),
    Case("M15 torch archive by another name", starting_with(b"PK\3\4"), "pickle"),
    Case("M17 GGUF by another name", starting_with(b"GGUF"), "GGUF"),
    Case("M17 GGUF", starting_with(b"GGUF", "model.gguf"), "GGUF"),
)  # fmt: skip
