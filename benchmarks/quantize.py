"""Quantizing against ModelOpt and against copying, and what quantization costs; one JSON line.

Every figure is a ratio taken in one run. Contenders run in turn, each in a fresh process, on a
checkpoint in the page cache; imports are not timed.

- ours: `quantize.stream.quantize`, reading, encoding, writing and flushing, errors measured;
- ModelOpt 0.47: load, `mtq.quantize`, `export_hf_checkpoint` (with its crash on fused experts
  patched as in tests/quantize/conftest.py), flush; FP8 without activation scales, for which it
  would have to run the model, while ours writes given ones;
- copy: read every byte of the source, write as many bytes as ours wrote, flush.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGETS = {
    "int4": {"modelopt": 6.0, "copy": 1.5},
    "fp8": {"modelopt": 3.0, "copy": 1.3},
}
MEMORY_TARGET_GB, GROWTH_TARGET = 0.5, 1.05
SMOOTHING_TARGET, FP8_TARGET = 0.7, 0.1
BLOCK = 16 << 20
MODELOPT_ROUNDS = 3
NOTES = (
    "FP8's divergence is that of weights, activations and KV cache, all rounded to E4M3's three "
    "bits of mantissa; its square grows with the sum of their squared errors, INT4's with that of "
    "its weights alone. Scales are ModelOpt's to the byte, so there is nothing to choose."
)


class Anonymous:
    """The peak of this process's anonymous memory from now on, sampled every few milliseconds."""

    def __init__(self) -> None:
        self.peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.003)


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def ours(quant: str, source: Path, out: Path) -> dict[str, Any]:
    import torch  # noqa: F401

    base = anonymous_bytes()
    from nemotron_deploy.model.checkpoint import Checkpoint
    from nemotron_deploy.model.recipes import CONSERVATIVE
    from nemotron_deploy.quantize.stream import quantize

    recipe = CONSERVATIVE[quant]
    names = [
        name
        for group in Checkpoint.open(source).model.tensors()
        if recipe.quantizes(group)
        for name in group.names()
    ]
    memory = Anonymous()
    begun = time.perf_counter()
    quantize(Checkpoint.open(source), recipe, out, activation_amax=dict.fromkeys(names, 1.0))
    return {"seconds": time.perf_counter() - begun, "anonymous": memory.peak - base}


def modelopt(quant: str, source: Path, out: Path) -> dict[str, Any]:
    import modelopt.torch.export.unified_export_hf as unified
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import NemotronHForCausalLM

    real: Callable[..., Any] = unified.get_experts_list

    def tolerant(module: Any, model_type: str) -> Any:
        try:
            len(module.experts)
        except TypeError:
            return []
        return real(module, model_type)

    unified.get_experts_list = tolerant
    base = {"int4": mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, "fp8": mtq.MAMBA_MOE_FP8_CONSERVATIVE_CFG}
    cfg = copy.deepcopy(base[quant])
    rows = cfg["quant_cfg"]
    for row in rows:
        if quant == "int4" and row["quantizer_name"] == "*weight_quantizer":
            row["cfg"]["block_sizes"][-1] = 64
    left_out = ["*input_quantizer"] if quant == "fp8" else []
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "mixer.in_proj", "mixer.out_proj")
    left_out += [f"*{name}*" for name in names]
    rows += [{"quantizer_name": name, "enable": False} for name in left_out]
    memory = Anonymous()
    begun = time.perf_counter()
    model = NemotronHForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    mtq.quantize(model, cfg)
    export_hf_checkpoint(model, export_dir=out)
    for path in out.iterdir():  # which it leaves to the kernel; the others flush
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - begun, "anonymous": memory.peak}


def copied(_: str, source: Path, out: Path) -> dict[str, Any]:
    """`out` holds what ours wrote: as many bytes are written beside it, shard by shard."""
    sizes = {path.name: path.stat().st_size for path in out.glob("*.safetensors")}
    begun = time.perf_counter()
    for name, left in sizes.items():
        with (source / name).open("rb", 0) as read, (out / f"{name}.copy").open("wb", 0) as write:
            while data := read.read(BLOCK):
                left -= write.write(data[: max(0, left)])
            while left > 0:  # the result is larger than its source
                left -= write.write(bytes(min(left, BLOCK)))
            os.fsync(write.fileno())
    return {"seconds": time.perf_counter() - begun}


CONTENDERS = {"ours": ours, "modelopt": modelopt, "copy": copied}


def once(contender: str, quant: str, source: Path, out: Path) -> dict[str, Any]:
    """One run in a process of its own. `out` is emptied before, but for copying."""
    if contender != "copy":
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    os.sync()
    time.sleep(1)  # the file system is still busy with what was removed
    command = [sys.executable, __file__, "--one", contender, quant, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} {quant}: {done.stderr[-2000:]}")
    for left in out.glob("*.copy"):
        left.unlink()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare_speed(quant: str, source: Path, work: Path, rounds: int) -> dict[str, Any]:
    out, theirs = work / "ours", work / "theirs"
    seconds: dict[str, list[float]] = {"ours": [], "copy": []}
    anonymous = []
    for _ in range(rounds):
        for contender in seconds:
            result = once(contender, quant, source, out)
            seconds[contender].append(result["seconds"])
            anonymous += [result["anonymous"]] if "anonymous" in result else []
    references = [once("modelopt", quant, source, theirs) for _ in range(MODELOPT_ROUNDS)]
    reference = {
        "seconds": statistics.median(row["seconds"] for row in references),
        "anonymous": max(row["anonymous"] for row in references),
    }
    fastest = {name: statistics.median(values) for name, values in seconds.items()}
    target = TARGETS[quant]
    speedup = reference["seconds"] / fastest["ours"]
    of_copy = fastest["ours"] / fastest["copy"]
    return {
        "equal_to_modelopt": equal(out, theirs),
        "times_faster_than_modelopt": round(speedup, 2),
        "met_modelopt": speedup >= target["modelopt"],
        "times_the_copy": round(of_copy, 3),
        "met_copy": of_copy <= target["copy"],
        "targets": target,
        "seconds": {
            "ours": [round(value, 2) for value in seconds["ours"]],
            "copy": [round(value, 2) for value in seconds["copy"]],
            "modelopt": [round(row["seconds"], 2) for row in references],
        },
        "peak_anonymous_gb": round(statistics.median(anonymous) / 1e9, 3),
        "modelopt_peak_anonymous_gb": round(reference["anonymous"] / 1e9, 3),
    }


def equal(out: Path, theirs: Path) -> dict[str, int]:
    """Quantized weights and weight scales of both, byte by byte."""
    import torch
    from safetensors import safe_open

    def tensors(folder: Path) -> dict[str, Path]:
        found = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    mine, other = tensors(out), tensors(theirs)
    prefixes = {name.removesuffix("_scale") for name in mine if name.endswith(".weight_scale")}
    names = [name + suffix for name in prefixes for suffix in ("", "_scale")]
    same = 0
    for name in names:
        with safe_open(mine[name], "pt") as a, safe_open(other[name], "pt") as b:
            one, two = a.get_tensor(name), b.get_tensor(name)
            bytes_equal = torch.equal(
                one.view(-1).view(torch.uint8), two.view(-1).view(torch.uint8)
            )
            same += one.dtype is two.dtype and one.shape == two.shape and bytes_equal
    return {"tensors": len(names), "equal": same}


def compare_quality(work: Path) -> dict[str, Any]:
    """KL divergence to the source on held-out text, of `tiny` and of a copy with outliers."""
    from planted import plant

    from nemotron_deploy.api.quality import compare
    from nemotron_deploy.model.catalog import TINY

    found = {}
    for name, path in {"tiny": TINY, "planted": plant(TINY, work / "planted")}.items():
        rows = compare(str(path), "fp8,int4,int4-plain").formats
        kl = {row.key: row.fidelity.kl for row in rows if row.fidelity}
        smoothed, fp8 = kl["int4"] / kl["int4-plain"], kl["fp8"] / kl["int4-plain"]
        found[name] = {
            "kl": {key: float(f"{value:.3g}") for key, value in kl.items()},
            "weight_error": {
                row.key: round(row.weight_error.mean, 4) for row in rows if row.weight_error.mean
            },
            "smoothed_to_plain": round(smoothed, 3),
            "met_smoothing": smoothed <= SMOOTHING_TARGET,
            "fp8_to_plain_int4": round(fp8, 3),
            "met_fp8": fp8 <= FP8_TARGET,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=4, metavar=("CONTENDER", "QUANT", "SOURCE", "OUT"))
    parser.add_argument("--work", type=Path, help="where to put some 12 GB; default: temporary")
    arguments = parser.parse_args()
    if arguments.one:
        contender, quant, source, out = arguments.one
        print(json.dumps(CONTENDERS[contender](quant, Path(source), Path(out))))
        return
    from generated import generate

    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        source = generate(work / "source", repeats=2)
        size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        formats = {quant: compare_speed(quant, source, work, arguments.rounds) for quant in TARGETS}
        shutil.rmtree(work / "theirs")
        shutil.rmtree(source)
        double = generate(work / "double", repeats=4)
        larger = sum(path.stat().st_size for path in double.glob("*.safetensors"))
        for quant, row in formats.items():
            runs = [once("ours", quant, double, work / "ours") for _ in range(arguments.rounds)]
            peak = statistics.median(run["anonymous"] for run in runs) / 1e9
            growth = peak / row["peak_anonymous_gb"]
            row["peak_anonymous_growth"] = round(growth, 3)
            row["met_memory"] = row["peak_anonymous_gb"] <= MEMORY_TARGET_GB
            row["met_growth"] = growth <= GROWTH_TARGET
        report = {
            "benchmark": "quantize",
            "source_gb": round(size / 1e9, 3),
            "larger_source_gb": round(larger / 1e9, 3),
            "formats": formats,
            "quality": compare_quality(work),
            "notes": NOTES,
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
