"""Checkpoints as people have them are read, converted or refused, and the documentation says so."""

from __future__ import annotations

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
from nemotron_deploy.tests.model.bent import CASES, Case, Stored, added, read, shards

PAGE = ROOT / "docs" / "checkpoints.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)

READABLE = [case for case in CASES if case.answer != "refused"]
REFUSED = [case for case in CASES if case.answer == "refused"]
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
        for case in CASES
    ]
    table = "".join(f"{row}\n" for row in rows)
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        text = TABLE.sub(lambda _: table, text)
        PAGE.write_text(text, encoding="utf-8")
    shown = TABLE.search(text)
    assert shown is not None
    assert shown[0] == table, "docs/checkpoints.md differs; see UPDATE_GOLDEN=1"
