"""What others measured and published, and what the planner estimates for the same.

Tolerances are those that a change of the planner must keep; how far off it is stands in the table
of docs/planner.md, which a test keeps current.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.planner.plan import Planner
from nemotron_deploy.model.architecture import Model
from nemotron_deploy.model.catalog import gpu, known_model
from nemotron_deploy.model.format_request import requested
from nemotron_deploy.model.peers import peer
from nemotron_deploy.model.spec import Point, Workload

NANO: Final = "nemotron-3-nano-30b-a3b"
SUPER: Final = "nemotron-3-super-120b-a12b"
QWEN: Final = "qwen3-30b-a3b"
NINE: Final = "nemotron-nano-9b-v2"
TWELVE: Final = "nemotron-nano-12b-v2"


@dataclass(frozen=True)
class Published:
    """Output tokens a second of all GPUs together, measured with `sequences` at once."""

    model: str
    quant: str
    gpu: str
    gpus: int
    isl: int
    osl: int
    sequences: int
    tokens_per_s: float
    within: float
    engine: str
    source: str
    recipe: str | None = None

    def ours(self) -> Point:
        size = Workload(isl=self.isl, osl=self.osl, gpus=self.gpus)
        model = named(self.model)
        quant = requested(self.quant, self.recipe).for_model(model)
        target = engine("vllm" if self.engine.startswith("vLLM") else "tensorrt-llm")
        return Planner(model, size, target).speed(gpu(self.gpu), quant).point(self.sequences)

    @property
    def off(self) -> float:
        """How far ours is above it, as a share of it."""
        return self.ours().output_tokens_per_s / self.tokens_per_s - 1

    def row(self) -> str:
        """A row of the table in docs/planner.md."""
        short = self.model.removeprefix("nemotron-").removeprefix("3-").split("-")
        name = short[0] if short[0] != "nano" or "v2" not in short else "-".join(short)
        quant = f"{self.quant} {self.recipe}" if self.recipe else self.quant
        digits = 0 if self.tokens_per_s > 100 else 1
        return (
            f"| {name} {quant} | {self.gpus} x {self.gpu} | {self.isl}/{self.osl} | "
            f"{self.sequences} | {self.tokens_per_s:,.{digits}f} | "
            f"{self.ours().output_tokens_per_s:,.{digits}f} | {self.off:+.0%} | {self.engine}; "
            f"{self.source} |"
        )


def named(name: str) -> Model:
    found = known_model(name) or peer(name)
    assert found is not None
    return found


TUTORIAL: Final = "Model-Optimizer tutorials"

POINTS: Final = (
    Published(NANO, "fp8", "h100", 1, 32768, 1024, 256, 1323, 0.2, "vLLM", TUTORIAL,
              "conservative"),
    Published(NANO, "bf16", "h100", 1, 32768, 1024, 31, 598, 0.25, "vLLM",
              TUTORIAL + ", which said 1,006 before"),
    Published(NINE, "bf16", "h100", 1, 32768, 1024, 72, 794, 0.2, "vLLM", TUTORIAL),
    Published(NINE, "fp8", "h100", 1, 32768, 1024, 82, 1012, 0.2, "vLLM", TUTORIAL),
    Published(TWELVE, "bf16", "h100", 1, 32768, 1024, 45, 585, 0.2, "vLLM", TUTORIAL),
    Published(NANO, "fp8", "h200", 1, 1024, 1024, 1024, 15828, 0.15, "vLLM 0.12",
              "vllm-project/recipes"),
    Published(NANO, "fp8", "h100", 8, 1024, 1024, 256, 18375, 0.1, "TensorRT-LLM AutoDeploy",
              "TensorRT-LLM issue 9643"),
    Published(NANO, "fp8", "b200", 2, 2048, 512, 512, 18829, 0.2, "vLLM 0.16",
              "Vultr's inference cookbook"),
    Published(SUPER, "fp8", "h100", 2, 8192, 1024, 32, 1116, 0.15, "vLLM", "lambda.ai"),
    Published(SUPER, "bf16", "a100", 4, 8192, 1024, 32, 553, 0.15, "vLLM", "lambda.ai"),
    Published(SUPER, "bf16", "h200", 8, 220, 200, 8, 1083, 0.1, "vLLM",
              "vLLM PR 44675; ShareGPT, lengths and number inferred"),
    Published(NINE, "bf16", "h100", 1, 1024, 128, 10, 846, 0.25, "vLLM",
              "vLLM PR 29488; one burst of 1.5 s"),
    Published(QWEN, "bf16", "a100", 1, 1024, 128, 1, 95, 0.1, "vLLM of July 2025",
              "tt-inference-server issue 340"),
    Published(QWEN, "bf16", "h100-nvl", 1, 1024, 128, 64, 1938, 0.15, "vLLM", "vLLM PR 54742"),
    Published(QWEN, "bf16", "h100-nvl", 1, 4096, 8, 256, 74.4, 0.2, "vLLM", "vLLM PR 54742"),
    Published(QWEN, "bf16", "h200", 2, 1024, 128, 256, 6425, 0.15, "vLLM", "flashinfer issue 3521"),
)  # fmt: skip
"""Points that the estimate is held to."""

MISSES: Final = (
    Published(QWEN, "bf16", "h100-nvl", 1, 128, 1024, 256, 6589, 0.45, "vLLM",
              "vLLM PR 54742; one burst, nobody replaces who ends"),
    Published(SUPER, "bf16", "h200", 4, 508, 517, 256, 3348, 1.5, "SGLang, an early build",
              "sgl-cookbook"),
)  # fmt: skip
"""Points that the estimate does not reach, with what may be the reason."""


def table() -> str:
    """All points, as docs/planner.md shows them."""
    head = (
        "| model | GPUs | in/out | at once | tokens/s | ours | off | engine; source |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(point.row() for point in (*POINTS, *MISSES))])
