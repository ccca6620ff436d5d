"""What the whole product does with this GPU: golden outputs, calibration and smoothing."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from .problems import cuda, device

KEPT: Final = Path(tempfile.gettempdir(), "gpu_check_quantized")
"""What `quantize` leaves for `quantize_cpu`."""


def _tiny_int4(folder: Path) -> Path:
    from nemotron_deploy.api.quantize import quantize_source
    from nemotron_deploy.api.quantize_options import options_for
    from nemotron_deploy.model import catalog
    from nemotron_deploy.model.recipes import CONSERVATIVE

    out = folder / "tiny-int4"
    quantize_source(
        str(catalog.TINY), options_for(CONSERVATIVE["int4"], device="cpu", smooth=False), out
    )
    return out


def golden() -> dict[str, Any]:
    """Golden outputs of the embedded checkpoint in INT4: recorded on the CPU, met on the GPU."""
    from nemotron_deploy.model import catalog
    from nemotron_deploy.model.checkpoint import Checkpoint
    from nemotron_deploy.model.recipes import CONSERVATIVE
    from nemotron_deploy.quantize import recording
    from nemotron_deploy.quantize.forced import Source
    from nemotron_deploy.runtime.executors.loading import load_model
    from nemotron_deploy.runtime.executors.reference import score
    from nemotron_deploy.runtime.golden import compare

    with tempfile.TemporaryDirectory() as name:
        checkpoint = _tiny_int4(Path(name))
        quantized = Checkpoint.open(checkpoint)
        source = Source(Checkpoint.open(catalog.TINY), CONSERVATIVE["int4"])
        times = {}
        at = time.perf_counter()
        here = recording.record(quantized, "check", source, device="cpu")
        times["cpu"] = round(time.perf_counter() - at, 1)
        at = time.perf_counter()
        there = recording.record(quantized, "check", source, device=device())
        times[device()] = round(time.perf_counter() - at, 1)
        found: dict[str, Any] = {}
        for dtype in ("float32", "bfloat16"):
            model = load_model(checkpoint, dtype)[0].to(device())
            for by, record in (("cpu", here), (device(), there)):
                scores = [score(model, entry.case) for entry in record.entries]
                seen = compare(record.entries, scores)
                found[f"{dtype} on {device()} against {by}"] = {
                    "divergence": seen.divergence,
                    "agreement": seen.agreement,
                    "gain": seen.gain,
                    "faults": seen.faults(record.bounds),
                }
        likeliest = [
            (a.tokens[0], b.tokens[0])
            for ours, theirs in zip(here.entries, there.entries, strict=True)
            for a, b in zip(ours.positions, theirs.positions, strict=True)
        ]
        same = sum(a == b for a, b in likeliest)
    wrong = [key for key, value in found.items() if value["faults"]]
    return {
        "seconds": times,
        "comparisons": found,
        "same_likeliest_tokens": same,
        "wrong": wrong,
        "ok": not wrong,
        "verdict": f"{same} of {len(likeliest)} likeliest tokens the same; "
        f"out of bounds: {wrong or 'none'}; {times}",
    }


def _wide_checkpoint(folder: Path) -> Path:
    """One Mamba, one expert and one attention layer of Nano's widths, with a tokenizer."""
    from nemotron_deploy.benchmarks import generated
    from nemotron_deploy.model import catalog

    if not cuda():
        generated.EXPERTS, generated.VOCABULARY = 8, 1024
    source = generated.generate(folder / "wide", 1)
    for path in catalog.TINY.iterdir():
        if "token" in path.name or path.name.endswith(".jinja"):
            shutil.copy(path, source / path.name)
    return source


def _quantized(source: Path, out: Path, where: str, texts: Path) -> float:
    from nemotron_deploy.api.quantize import quantize_source
    from nemotron_deploy.api.quantize_options import options_for
    from nemotron_deploy.model.recipes import CONSERVATIVE

    at = time.perf_counter()
    options = options_for(CONSERVATIVE["int4"], device=where, calibration=texts, smooth=True)
    quantize_source(str(source), options, out)
    return round(time.perf_counter() - at, 1)


def quantize() -> dict[str, Any]:
    """Calibration, smoothing and INT4 of full-width layers with `--device cuda`."""
    import torch

    from nemotron_deploy.model.catalog import text

    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    at = time.perf_counter()
    source = _wide_checkpoint(KEPT)
    made = round(time.perf_counter() - at, 1)
    texts = KEPT / "texts.jsonl"
    lines = [json.dumps({"text": t}) for t in list(text.documents(0, 8))]
    texts.write_text("\n".join(lines) + "\n")
    seconds = _quantized(source, KEPT / device(), device(), texts)
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda() else None
    return {
        "generated_seconds": made,
        "seconds": seconds,
        "peak_gb": peak,
        "ok": True,
        "verdict": f"INT4 with smoothing at full width on {device()}: {seconds} s, peak {peak} GB",
    }


def quantize_cpu() -> dict[str, Any]:
    """The same on the CPU, and how far apart the two are."""
    import torch
    from safetensors import safe_open

    seconds = _quantized(KEPT / "wide", KEPT / "on-cpu", "cpu", KEPT / "texts.jsonl")
    differs: dict[str, int] = {}
    total = unequal = 0
    for path in sorted((KEPT / "on-cpu").glob("*.safetensors")):
        other = KEPT / device() / path.name
        with safe_open(path, framework="pt") as a, safe_open(other, framework="pt") as b:
            for name in a.keys():  # noqa: SIM118
                one, two = a.get_tensor(name), b.get_tensor(name)
                one, two = one.view(torch.uint8).flatten(), two.view(torch.uint8).flatten()
                count = int((one != two).sum())
                total, unequal = total + one.numel(), unequal + count
                if count:
                    differs[name.split(".")[-1]] = differs.get(name.split(".")[-1], 0) + count
    share = unequal / max(total, 1)
    return {
        "seconds": seconds,
        "differing_bytes": differs,
        "share": share,
        "ok": share < 0.05,
        "verdict": f"CPU {seconds} s; {share:.4%} of its bytes differ from {device()}'s",
    }
