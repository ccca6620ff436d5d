"""Checkpoints as people have them are read, converted or refused, and the documentation says so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.tests.docs.pages import ROOT
from nemotron_deploy.tests.model import config_cases, quantized_cases
from nemotron_deploy.tests.model.bent import CASES, Case, Stored, added, read, shards

PAGE = ROOT / "docs" / "checkpoints.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)

LISTED = (
    *CASES,
    *config_cases.CASES,
    *quantized_cases.LEFT_OVER,
    *quantized_cases.TAKEN_OVER,
    *quantized_cases.REFUSED,
)
"""Every case in the order of the page. What is taken over has tests of its own
(`test_quantized.py`)."""

READABLE = [case for case in LISTED if case.answer in ("read", "converted")]
REFUSED = [case for case in LISTED if case.answer == "refused"]
ONLY_PLANNED = [case for case in LISTED if case.answer == "planned"]
NOT_SUPPORTED = [case for case in LISTED if case.answer == "not supported"]
RESPELLED = [case for case in config_cases.CASES if case.answer == "converted"]
KNOWN_BY_HEADERS = [case for case in REFUSED if case.says != "is not equal to the embedding"]
"""`inspect` reads no weights."""

SPELLED = [
    case
    for case in READABLE
    if "head" not in case.title.lower() or "outside" in case.title or "headless" in case.title
]
"""Those that hold the very model that `tiny` is."""


def title(case: Case) -> str:
    return case.title


@pytest.mark.parametrize("case", READABLE, ids=title)
def test_what_is_read(case: Case, tiny_copy: Path) -> None:
    case.make(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    checkpoint.require_complete()
    assert case.says in "\n".join(checkpoint.notes)
    assert bool(checkpoint.notes) == (case.answer == "converted")
    assert not checkpoint.is_quantized


@pytest.mark.parametrize("case", SPELLED, ids=title)
def test_every_tensor_has_the_bytes_of_the_plain_spelling(case: Case, tiny_copy: Path) -> None:
    case.make(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    plain = read(TINY / "model.safetensors")
    assert checkpoint.tensors.keys() == plain.keys()
    for name, (dtype, shape, data) in plain.items():
        info = checkpoint.tensors[name]
        assert (info.dtype, info.shape) == (dtype, shape)
        assert checkpoint.read(name) == data


@pytest.mark.parametrize("case", REFUSED, ids=title)
def test_what_is_refused(
    case: Case, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    arguments = ["--quant", "int4", "--checkpoint", str(tiny_copy), "--out", str(out)]
    assert run(["quantize", *arguments]) == 4
    assert case.says in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("case", KNOWN_BY_HEADERS, ids=title)
def test_inspect_says_it_too(
    case: Case, tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    code = run(["inspect", "--json", "--checkpoint", str(tiny_copy)])
    captured = capsys.readouterr()
    assert code == (4 if captured.err else 0)
    assert case.says in captured.err + captured.out


PLAN = ("plan", "--gpu", "h100", "--quant", "int4")
QUANTIZE = ("quantize", "--quant", "int4", "--out")
BUILD = ("build", "--gpu", "h100", "--quant", "int4", "--out")


def answers(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, out: Path
) -> dict[str, tuple[int, str]]:
    """The exit code and the words of each command."""
    result = {}
    for words in (("inspect", "--json"), (*PLAN, "--json"), (*QUANTIZE, out), (*BUILD, out)):
        code = run([*map(str, words), "--checkpoint", str(checkpoint)])
        captured = capsys.readouterr()
        result[words[0]] = (code, captured.out + captured.err)
    return result


@pytest.mark.parametrize("case", ONLY_PLANNED, ids=title)
def test_what_is_planned_and_never_built(
    case: Case, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    found = answers(capsys, tiny_copy, out)
    assert {command: code for command, (code, _) in found.items()} == {
        "inspect": 0, "plan": 0, "quantize": 3, "build": 3,
    }  # fmt: skip
    for command in ("plan", "quantize", "build"):
        assert case.says in found[command][1]
        assert "vllm serve with that checkpoint directly" in found[command][1]
    assert json.loads(found["plan"][1])["status"] == "compared"
    assert json.loads(found["inspect"][1])["notes"]
    assert not out.exists()


@pytest.mark.parametrize("case", NOT_SUPPORTED, ids=title)
def test_what_is_not_supported(
    case: Case, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    for code, words in answers(capsys, tiny_copy, out).values():
        assert code == 3
        assert case.says in words
        assert "What works instead: trtllm-serve or vllm serve" in words
    assert not out.exists()


def test_a_nested_language_model_is_that_model(
    tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_cases.omni("llm_config")(tiny_copy)
    documents = []
    for checkpoint in ("tiny", str(tiny_copy)):
        assert run(["inspect", "--json", "--checkpoint", checkpoint]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    plain, nested = documents
    for key in ("parameters_total", "pattern", "tensors", "bytes", "kv_bytes_per_token"):
        assert nested[key] == plain[key]
    assert nested["differences"] == []


@pytest.mark.parametrize("case", RESPELLED, ids=title)
def test_the_output_has_the_usual_configuration(
    case: Case, tiny_copy: Path, tmp_path: Path
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    assert (
        run(["quantize", "--quant", "bf16", "--checkpoint", str(tiny_copy), "--out", str(out)]) == 0
    )
    written = json.loads((out / "config.json").read_text())
    plain = json.loads((TINY / "config.json").read_text())
    assert {key: written[key] for key in plain} == plain


@pytest.mark.parametrize(
    "wanted",
    [
        "Stacked experts under the prefix `model.`",
        "Prefix `_orig_mod.` of torch.compile",
        "`consolidated.safetensors` alone",
        "Vision tower and projector beside the language model",
        "Rotary buffers stored",
    ],
)
def test_quantizing_gives_the_bytes_of_the_plain_spelling(
    wanted: str, tiny_copy: Path, tmp_path: Path, int4_tiny: Path
) -> None:
    from nemotron_deploy.quantize.stream import quantize

    (case,) = (case for case in CASES if case.title == wanted)
    case.make(tiny_copy)
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = Checkpoint.open(tiny_copy)
    quantize(checkpoint, CONSERVATIVE["int4"], out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in int4_tiny.iterdir()
    }


def test_shards_without_an_index_get_one(tiny_copy: Path, tmp_path: Path) -> None:
    from nemotron_deploy.quantize.stream import quantize

    shards(3, index=False)(tiny_copy)
    out = tmp_path / "out"
    out.mkdir()
    quantize(Checkpoint.open(tiny_copy), CONSERVATIVE["int4"], out)
    assert (out / "model.safetensors.index.json").is_file()
    assert len(Checkpoint.open(out).shards) == 3


def test_a_stack_of_more_experts_than_can_be_is_not_unrolled(tiny_copy: Path) -> None:
    name = "backbone.layers.1.mixer.experts.up_proj"
    added({name: Stored("BF16", (2**60, 0, 1), b"")})(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    with pytest.raises(BadInputError, match=name):
        checkpoint.require_complete()


def test_the_page_lists_these_cases() -> None:
    rows = ["| What people have | Answer | What nemo-deploy says |", "| --- | --- | --- |"]
    rows += [
        f"| {case.title} | {case.answer} | {f'… {case.says} …' if case.says else ''} |"
        for case in LISTED
    ]
    table = "".join(f"{row}\n" for row in rows)
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        text = TABLE.sub(lambda _: table, text)
        PAGE.write_text(text, encoding="utf-8")
    shown = TABLE.search(text)
    assert shown is not None
    assert shown[0] == table, "docs/checkpoints.md differs; see UPDATE_GOLDEN=1"
