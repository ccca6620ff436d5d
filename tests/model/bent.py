"""Checkpoints as people have them: generators that bend a copy of `tiny`, each with the answer.

What is expected stands beside each: whether it is read as it is, converted on the way, or refused,
and a piece of the note or message that says so. `docs/checkpoints.md` has the same table.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from nemotron_deploy.model.catalog import TINY

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


class Stored(NamedTuple):
    """A tensor in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = dict[str, Stored]
Maker = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`title` says what people have. `says` is in the answer, empty where none is given."""

    title: str
    make: Maker
    answer: Literal["read", "converted", "taken over", "planned", "refused", "not supported"]
    says: str = ""


def read(path: Path) -> Tensors:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, row in header.items():
        start, end = (8 + length + offset for offset in row["data_offsets"])
        tensors[name] = Stored(row["dtype"], tuple(row["shape"]), data[start:end])
    return tensors


def write(path: Path, tensors: Mapping[str, Stored]) -> None:
    header, position = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = position + len(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    content = b"".join(stored.data for stored in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def tensors(change: Callable[[Tensors], Tensors]) -> Maker:
    return lambda path: write(path / SINGLE, change(read(path / SINGLE)))


def renamed(change: Callable[[str], str]) -> Maker:
    return tensors(lambda old: {change(name): stored for name, stored in old.items()})


def without(drop: Callable[[str], bool]) -> Maker:
    return tensors(lambda old: {name: old[name] for name in old if not drop(name)})


def added(new: Tensors) -> Maker:
    return tensors(lambda old: old | new)


def config(**fields: Any) -> Maker:
    def make(path: Path) -> None:
        old = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(old | fields))

    return make


def both(*makers: Maker) -> Maker:
    def make(path: Path) -> None:
        for maker in makers:
            maker(path)

    return make


def content(name: str, data: bytes) -> Maker:
    return lambda path: (path / name).write_bytes(data)


def shards(count: int, index: bool = True, form: str = "model-{:05d}-of-{:05d}") -> Maker:
    def make(path: Path) -> None:
        old = read(path / SINGLE)
        (path / SINGLE).unlink()
        names = list(old)
        weight_map: dict[str, str] = {}
        for number in range(count):
            part = names[number * len(names) // count : (number + 1) * len(names) // count]
            shard = form.format(number + 1, count) + ".safetensors"
            write(path / shard, {name: old[name] for name in part})
            weight_map |= dict.fromkeys(part, shard)
        if index:
            (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return make


def moved(old: str, new: str) -> Maker:
    def make(path: Path) -> None:
        (path / new).parent.mkdir(parents=True, exist_ok=True)
        (path / old).rename(path / new)

    return make


def below(*folders: str, beside: tuple[str, ...] = ()) -> Maker:
    """The checkpoint moved down into `folders`, with the empty folders `beside`."""

    def make(path: Path) -> None:
        shutil.rmtree(path)
        for folder in folders:
            shutil.copytree(TINY, path / folder)
        for folder in beside:
            (path / folder).mkdir()

    return make


def only(files: Mapping[str, str]) -> Maker:
    """Nothing but these files."""

    def make(path: Path) -> None:
        shutil.rmtree(path)
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)

    return make


def stacked(end: str = "") -> Maker:
    def fuse(old: Tensors) -> Tensors:
        new: Tensors = {}
        stacks: dict[str, dict[int, Stored]] = {}
        for name, stored in old.items():
            before, experts, after = name.partition(".experts.")
            if experts:
                number, _, projection = after.removesuffix(".weight").partition(".")
                stack = stacks.setdefault(f"{before}.experts.{projection}{end}", {})
                stack[int(number)] = stored
            else:
                new[name] = stored
        for name, stack in stacks.items():
            parts = [stack[number] for number in sorted(stack)]
            shape = (len(parts), *parts[0].shape)
            new[name] = Stored(parts[0].dtype, shape, b"".join(part.data for part in parts))
        return new

    return tensors(fuse)


def pruned(layers: tuple[int, ...], first: int) -> Maker:
    """Experts from number `first` on are gone in `layers`."""

    def is_gone(name: str) -> bool:
        layer, _, expert = name.removeprefix("backbone.layers.").partition(".mixer.experts.")
        return bool(expert) and int(layer) in layers and int(expert.partition(".")[0]) >= first

    return without(is_gone)


def tied_head(equal: bool) -> Maker:
    def copy(old: Tensors) -> Tensors:
        head = old["backbone.embeddings.weight"] if equal else old["lm_head.weight"]
        return old | {"lm_head.weight": head}

    return both(config(tie_word_embeddings=True), tensors(copy))


def padded(old: Tensors) -> Tensors:
    for name in ("backbone.embeddings.weight", "lm_head.weight"):
        dtype, (rows, width), data = old[name]
        old[name] = Stored(dtype, (rows + 64, width), data + bytes(64 * width * 2))
    return old


def packed(suffixes: Mapping[str, str], end: str = "in_proj.weight") -> Maker:
    """Weights ending in `end` replaced by tensors of these suffixes and dtypes."""

    def pack(old: Tensors) -> Tensors:
        new: Tensors = {}
        for name, stored in old.items():
            if not name.endswith(end):
                new[name] = stored
                continue
            for suffix, dtype in suffixes.items():
                size = 4 if dtype in ("U32", "I32", "F32") else 2 if dtype == "BF16" else 1
                owner = name.removesuffix("weight")
                new[owner + suffix] = Stored(dtype, (8, 8), bytes(64 * size))
        return new

    return tensors(pack)


def linked_elsewhere(path: Path) -> None:
    """The shard lies in another directory, and a link to it here."""
    other = path.with_name(f"{path.name}-disk")
    other.mkdir()
    (path / SINGLE).rename(other / SINGLE)
    (path / SINGLE).symlink_to(other / SINGLE)


def link(name: str, target: str) -> Maker:
    return lambda path: (path / name).symlink_to(target)


def _two_saves(path: Path) -> None:
    shards(2, index=False)(path)
    for shard in sorted(path.glob("model-*")):
        shutil.copy(shard, path / shard.name.replace("of-00002", "of-00003"))


def _stale_index(path: Path) -> None:
    shards(2)(path)
    text = (path / INDEX).read_text()
    (path / INDEX).write_text(text.replace("of-00002", "of-00013"))


ADAPTER: Final = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "nvidia/some-model"})
LFS: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5716736\n"
HTML: Final = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
VECTOR: Final = Stored("BF16", (16,), bytes(32))
HF_DOWNLOAD: Final = ".cache/huggingface/download"

CASES: Final = (
    # Names and layouts
    Case("Singular embedding name", renamed(lambda n: n.replace("embeddings.", "embedding.")),
         "converted", "is read as backbone.embeddings.weight"),
    Case("Prefix `model.`", renamed(lambda n: n.replace("backbone.", "model.")),
         "converted", "names beginning with 'model.'"),
    Case("Prefix `language_model.backbone.`", renamed(lambda n: "language_model." + n),
         "converted", "names beginning with 'language_model.backbone.'"),
    Case("Prefix `model.language_model.`, head outside",
         renamed(lambda n: n.replace("backbone.", "model.language_model.")),
         "converted", "names beginning with 'model.language_model.'"),
    Case("No prefix at all (saved from the headless class)",
         renamed(lambda n: n.removeprefix("backbone.")), "converted", "names beginning with ''"),
    Case("Prefix `_orig_mod.` of torch.compile", renamed(lambda n: "_orig_mod." + n),
         "converted", "torch's wrappers"),
    Case("FSDP's `_fsdp_wrapped_module.` within names",
         renamed(lambda n: "module." + n.replace("mixer.", "_fsdp_wrapped_module.mixer.")),
         "converted", "torch's wrappers"),
    Case("Two prefixes mixed", renamed(lambda n: n.replace("backbone.layers.3", "model.layers.3")),
         "refused", "as if two saves were mixed"),
    Case("One tensor under two spellings", added({"backbone.embedding.weight": VECTOR}),
         "refused", "are both backbone.embeddings.weight"),
    Case("Experts stacked to three dimensions", stacked(), "converted", "read expert by expert"),
    Case("Stacked experts ending in `.weight`", stacked(".weight"),
         "converted", "read expert by expert"),
    Case("Stacked experts under the prefix `model.`",
         both(stacked(), renamed(lambda n: n.replace("backbone.", "model."))),
         "converted", "read expert by expert"),
    Case("Experts pruned in one layer", pruned((4,), 8), "refused", "experts were pruned in 1 of"),
    Case("Experts pruned in every layer, config.json not changed", pruned((1, 4, 6), 8),
         "refused", "every layer stores 8 experts, but `n_routed_experts` is 12"),
    Case("Whole layers gone", without(lambda n: ".layers.5." in n), "refused",
         "1 of 7 layers are not stored at all (5)"),
    Case("More layers than config.json has",
         renamed(lambda n: n.replace(".layers.6.", ".layers.7.")), "refused", "layers up to 7"),
    Case("Tied head, not stored",
         both(config(tie_word_embeddings=True), without(lambda n: n == "lm_head.weight")), "read"),
    Case("Tied head, stored and equal to the embedding", tied_head(True),
         "converted", "left out: output head, which is tied to the embedding (1)"),
    Case("Tied head, stored and another than the embedding", tied_head(False),
         "refused", "is not equal to the embedding"),
    Case("Head dropped, though not tied", without(lambda n: n == "lm_head.weight"),
         "refused", "the output head was dropped"),
    Case("Vocabulary padded, config.json not changed", tensors(padded),
         "refused", "set `vocab_size` to 576"),
    Case("MTP configured, its layers stripped",
         config(num_nextn_predict_layers=1, mtp_hybrid_override_pattern="*E"),
         "converted", "MTP layers were stripped"),
    Case("MTP layers stored, not configured", added({"mtp.layers.0.norm.weight": VECTOR}),
         "converted", "left out: tensors of MTP layers that config.json does not configure (1)"),
    Case("Rotary buffers stored",
         added({"backbone.rotary_emb.inv_freq": Stored("F32", (32,), bytes(128)),
                "position_ids": Stored("I64", (2,), bytes(16))}),
         "converted", "left out: rotary and position buffers, which are no weights (2)"),
    Case("Vision tower and projector beside the language model",
         both(renamed(lambda n: "language_model." + n),
              added({"vision_model.blocks.0.weight": VECTOR, "mlp1.0.weight": VECTOR})),
         "converted", "left out: tensors of encoders for images or sound"),
    Case("Surplus that is not known", added({"probe.weight": VECTOR}),
         "refused", "probe.weight is not part of a model"),
    # Files
    Case("Shards without an index", shards(3, index=False), "read"),
    Case("Shards without an index, named by another trainer",
         shards(3, index=False, form="shard-{:05d}-model-{:05d}-of-00003"), "read"),
    Case("`consolidated.safetensors` alone", moved(SINGLE, "consolidated.safetensors"), "read"),
    Case("`consolidated.safetensors` beside shards",
         both(lambda path: shutil.copy(path / SINGLE, path / "consolidated.safetensors"),
              shards(2, index=False)), "read"),
    Case("Shards without an index, one missing",
         both(shards(3, index=False), lambda path: next(path.glob("*-00002-*")).unlink()),
         "refused", "model-00002-of-00003.safetensors: this shard is missing"),
    Case("Shards of two saves without an index", _two_saves, "refused", "more than one save"),
    Case("Index of an older save", _stale_index, "refused", "is of another save than the shards"),
    Case("Aborted `hf download --local-dir`",
         both(shards(2), moved("model-00002-of-00002.safetensors", f"{HF_DOWNLOAD}/x.incomplete")),
         "refused", "the download was aborted"),
    Case("git-lfs pointer as a shard", content(SINGLE, LFS), "refused", "run `git lfs pull`"),
    Case("git-lfs pointer as the tokenizer", content("tokenizer.json", LFS),
         "refused", "run `git lfs pull`"),
    Case("HTML page as a shard", content(SINGLE, HTML), "refused", "is an HTML page"),
    Case("HTML page as config.json", content("config.json", HTML), "refused", "is an HTML page"),
    Case("Server's error message as a shard", content(SINGLE, b'{"error":"Repository not found"}'),
         "refused", "is a server's error message in JSON"),
    Case("Other text as a shard", content(SINGLE, b"Entry not found"),
         "refused", "is a text file beginning with"),
    Case("Empty shard", content(SINGLE, b""), "refused", "is empty"),
    Case("Shard of zeros", content(SINGLE, bytes(4096)), "refused", "is filled with zeros"),
    Case("Shard as a link to another disk", linked_elsewhere, "read"),
    Case("Shard as a link to a disk that is not there",
         both(moved(SINGLE, "gone"), link(SINGLE, "/mnt/disk/model.safetensors")),
         "refused", "which is not there"),
    Case("Link to a document that is not there", link("README.md", "/nonexistent/README.md"),
         "read"),
    Case("Files of macOS beside the model",
         both(content("._model.safetensors", b"\0\5\x16\7"), content(".DS_Store", b"Bud1")),
         "read"),
    # Directories
    Case("An adapter", only({"adapter_config.json": ADAPTER, "adapter_model.safetensors": ""}),
         "refused", "is an adapter (LORA) of nvidia/some-model"),
    Case("An adapter left beside the merged model",
         both(content("adapter_config.json", ADAPTER.encode()),
              content("adapter_model.safetensors", b"")), "read"),
    Case("An adapter stored among the weights",
         added({"backbone.layers.0.mixer.in_proj.lora_A.weight": VECTOR}),
         "refused", "merge it first"),
    Case("A trainer's output folder", below("checkpoint-500", "checkpoint-1000"),
         "refused", "is the output folder of a trainer; did you mean the folder"),
    Case("A folder of the hub's cache",
         below("snapshots/0123456789abcdef", beside=("blobs", "refs")),
         "refused", "is a folder of the hub's cache; did you mean the folder"),
    Case("The folder above the model", below("model"), "refused", "did you mean the folder"),
    Case("A distributed checkpoint of torch", only({"__0_0.distcp": ""}),
         "refused", "is a distributed checkpoint of torch"),
    Case("A DeepSpeed checkpoint", only({"zero_to_fp32.py": ""}), "refused",
         "is a DeepSpeed checkpoint"),
    Case("GGUF alone", moved(SINGLE, "model-Q4_K_M.gguf"), "refused", "GGUF files are not read"),
    Case("Pickles alone", moved(SINGLE, "pytorch_model.bin"),
         "refused", "pickle weights can run code"),
    # Quantized
    Case("MLX", both(config(quantization={"group_size": 64, "bits": 4}),
                     packed({"weight": "U32", "scales": "BF16", "biases": "BF16"})),
         "refused", "is quantized by MLX"),
    Case("bitsandbytes", packed({"weight": "U8", "weight.absmax": "F32"}),
         "refused", "is quantized by bitsandbytes"),
    Case("GPTQ", packed({"qweight": "I32", "qzeros": "I32", "g_idx": "I32"}),
         "refused", "is quantized by GPTQ"),
    Case("AWQ", both(config(quantization_config={"quant_method": "awq"}),
                     packed({"qweight": "I32", "qzeros": "I32"})),
         "refused", "is quantized by AWQ"),
    Case("FP8 in blocks", packed({"weight": "F8_E4M3", "weight_scale_inv": "F32"}),
         "refused", "is quantized by blocks of FP8"),
    Case("`quantization_config` left over in an unquantized model",
         config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
         "converted", "`quantization_config` is ignored"),
    Case("`quantization_config` null", config(quantization_config=None), "read"),
    Case("`quantization_config` empty", config(quantization_config={}), "read"),
    Case("`trust_remote_code: false`", config(trust_remote_code=False), "read"),
    Case("`trust_remote_code: true`", config(trust_remote_code=True), "refused",
         "`trust_remote_code` is not for a checkpoint to decide"),
)  # fmt: skip
