"""What tasks need, read from lm-eval's own files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import RefusedError, UsageError
from nemotron_deploy.evaluation.requirements import (
    Index,
    Requirements,
    require_generated,
    require_supported,
    requirements,
)

pytest.importorskip("lm_eval", reason="the extra `evaluate` is not installed")

FOLDERS = (
    "arc", "e2lmc/sciknoweval_mcqa", "gsm8k", "hellaswag", "humaneval", "mmlu/default",
    "mmlu/generative", "mmlu_pro", "ruler", "wikitext",
)  # fmt: skip
"""Folders of lm-eval's tasks: reading all of them takes half a minute."""


@pytest.fixture(scope="module")
def index() -> Index:
    from lm_eval.tasks import TaskManager

    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    tasks = Path(spec.origin).parent / "tasks"
    folders = [str(tasks / name) for name in FOLDERS]
    found: Index = TaskManager(include_defaults=False, include_path=folders).task_index
    return found


def of(name: str, index: Index) -> Requirements:
    return requirements([name], index)[0]


def test_a_task_and_its_data_set(index: Index) -> None:
    row = of("gsm8k", index)
    assert (row.tasks, row.data_sets) == (("gsm8k",), ("openai/gsm8k",))
    assert not any((row.compared, row.runs_code, row.remote_code, row.ruler))


def test_groups_and_tags_are_their_tasks(index: Index) -> None:
    assert len(of("mmlu_pro", index).tasks) == 14
    mmlu = of("mmlu", index)
    assert (len(mmlu.tasks), mmlu.data_sets) == (57, ("cais/mmlu",))
    assert mmlu.compared == mmlu.tasks
    assert len(of("mmlu_generative", index).tasks) == 57
    assert "gsm8k" in of("math_word_problems", index).tasks
    assert len(of("ruler", index).ruler) == 13


def test_an_unknown_name_brings_the_nearest(index: Index) -> None:
    with pytest.raises(UsageError, match="no task 'gsm8'; did you mean gsm8k or gsm8k_cot"):
        requirements(["mmlu_pro", "gsm8"], index)


def test_no_task_is_asked_twice(index: Index) -> None:
    with pytest.raises(UsageError, match="mmlu_pro and mmlu_pro_math both hold mmlu_pro_math"):
        requirements(["mmlu_pro", "mmlu_pro_math"], index)


def test_generated_code_runs_only_if_allowed(index: Index) -> None:
    rows = requirements(["humaneval"], index)
    with pytest.raises(RefusedError, match="humaneval: runs the code that the model writes"):
        require_supported(rows, run_code=False)
    require_supported(rows, run_code=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sciknoweval_mcqa", "sciknoweval_mcqa_.*: its data set brings code of its own"),
        ("wikitext", "wikitext: measures the perplexity of whole texts"),
    ],
)
def test_what_is_never_run(index: Index, name: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        require_supported(requirements([name], index), run_code=True)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("mmlu", "mmlu_generative asks the same"),
        ("arc_challenge", "arc_challenge_chat asks the same"),
        ("hellaswag", "leave the task out, or use a server that gives them"),
    ],
)
def test_what_compares_answers_names_what_generates_them(
    index: Index, name: str, instead: str
) -> None:
    with pytest.raises(RefusedError, match=f"this server gives none; {instead}"):
        require_generated(requirements([name], index), index, "this server gives none")
    require_generated(requirements(["gsm8k", "mmlu_pro"], index), index, "this server gives none")
