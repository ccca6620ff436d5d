"""Published scores of the family, and the settings that they were measured with.

Sources: the technical report of Nemotron 3 Nano (arXiv 2512.20848), whose table 3 the model card
and NVIDIA's article on its evaluation repeat with one decimal; and the configurations of NeMo
Evaluator that the article refers to (`examples/nemotron` in NVIDIA-NeMo/Evaluator).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REPORT: Final = "technical report, arXiv 2512.20848"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a task is run; None leaves it to the task.

    Attributes:
        num_fewshot: Answered examples before each question.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Nucleus sampling.
        max_tokens: Longest answer; None, of a model that reasons, is what the context leaves.
        thinking: Whether the model reasons before it answers.
    """

    num_fewshot: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A published score.

    Attributes:
        model: The model's name in `model.catalog.family`.
        format: The format of its weights.
        task: lm-eval's task that measures the same.
        metric: lm-eval's metric and filter.
        value: The score, a share of 1.
        answers: Answers that it is the mean of: questions, times answers to each.
        settings: What it was measured with.
        source: Where it is published.
        differs: How that measurement differs from lm-eval's, in words; empty if it does not.
    """

    model: str
    format: str
    task: str
    metric: str
    value: float
    answers: int
    settings: Settings
    source: str
    differs: str


_NANO: Final = "nemotron-3-nano-30b-a3b"
_BASE: Final = f"{_NANO}-base"

_REASONING: Final = Settings(0, temperature=0.99999, top_p=0.99999, thinking=True)
_PLAIN: Final = Settings(0, temperature=0.0, thinking=False)


def _chat(
    task: str, metric: str, answers: int, differs: str, settings: Settings, **scores: float
) -> tuple[Published, ...]:
    tables = {"bf16": f"{REPORT}, table 3", "fp8": f"{REPORT}, table 4"}
    return tuple(
        Published(_NANO, name, task, metric, score / 100, answers, settings, tables[name], differs)
        for name, score in scores.items()
    )


def _base(
    task: str, shots: int | None, metric: str, score: float, answers: int, differs: str = ""
) -> Published:
    settings = Settings(shots, temperature=0.0)
    return Published(
        _BASE, "bf16", task, metric, score / 100, answers, settings, f"{REPORT}, table 2", differs
    )


def _ruler(tokens: int, score: float) -> tuple[Published, ...]:
    differs = (
        "measured with NeMo Skills on 100 questions for each of the 13 kinds; lm-eval asks 500"
    )
    return _chat("ruler", f"{tokens},none", 1300, differs, _PLAIN, bf16=score)


PUBLISHED: Final[tuple[Published, ...]] = (
    *_chat(
        "mmlu_pro", "exact_match,custom-extract", 12032,
        "measured with the prompt of NeMo Skills, which asks for a boxed letter",
        _REASONING, bf16=78.30, fp8=78.10,
    ),
    *_chat(
        "gpqa_diamond_cot_zeroshot", "exact_match,flexible-extract", 198 * 8,
        "measured with the prompt of NeMo Skills, 8 answers to each question",
        _REASONING, bf16=73.04, fp8=72.47,
    ),
    *_chat(
        "aime25", "exact_match,none", 30 * 64,
        "measured with the prompt of NeMo Skills, 64 answers to each question",
        _REASONING, bf16=89.06, fp8=87.71,
    ),
    *_ruler(262144, 92.92),
    *_ruler(524288, 91.25),
    *_ruler(1048576, 86.34),
    _base("mmlu", 5, "acc,none", 78.56, 14042),
    _base("mmlu_pro", 5, "exact_match,custom-extract", 65.05, 12032),
    _base("humaneval", 0, "pass@1,create_test", 78.05, 164),
    _base(
        "gsm8k", 8, "exact_match,flexible-extract", 92.34, 1319,
        "measured with the examples of gsm8k_cot",
    ),
    _base("gsm8k_cot", 8, "exact_match,flexible-extract", 92.34, 1319),
    _base("minerva_math", 4, "math_verify,none", 82.88, 5000),
    _base("arc_challenge", 25, "acc_norm,none", 91.89, 1172, "measured with Llama's prompt"),
    _base("hellaswag", 10, "acc_norm,none", 85.56, 10042),
    _base("openbookqa", 0, "acc_norm,none", 46.20, 500),
    _base("piqa", 0, "acc_norm,none", 84.33, 1838),
    _base("winogrande", 5, "acc,none", 79.64, 1267),
    _base("race", 0, "acc,none", 88.04, 1045),
    _base("ruler", None, "65536,none", 87.50, 6500),
    _base("ruler", None, "131072,none", 82.92, 6500),
    _base("ruler", None, "262144,none", 75.44, 6500),
    Published(
        "tiny", "bf16", "tiny_text", "exact_match,none", 101 / 128, 128, _PLAIN,
        "the embedded checkpoint in BF16, served by nemo-deploy on the CPU", "",
    ),
)  # fmt: skip


def family_name(served: str) -> str:
    """The family's name of a served model, such as `nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8`.

    A name of no such form is given back in small letters.
    """
    name = served.rpartition("/")[2].lower().removeprefix("nvidia-")
    for suffix in ("-bf16", "-fp8", "-nvfp4", "-int8", "-int4"):
        name = name.removesuffix(suffix)
    return name
