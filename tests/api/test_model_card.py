"""What lies beside a quantized checkpoint so that it can be published."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from nemotron_deploy.api.quantize import quantize
from nemotron_deploy.model.catalog import TINY

NANO = "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"

CARD = """---
license: other
license_name: nvidia-open-model-license
license_link: https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/
language:
- en
- de
pipeline_tag: text-generation
library_name: transformers
widget: {text: no}
---
# The source's own words
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory named as NVIDIA's, with a card and a licence."""
    folder = tmp_path / NANO
    shutil.copytree(TINY, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("terms\n")
    return folder


def metadata(out: Path) -> dict[str, Any]:
    """What the hub's own reader finds."""
    found: dict[str, Any] | None = metadata_load(out / "README.md")
    assert found is not None
    return found


def text(out: Path) -> str:
    return (out / "README.md").read_text()


def test_the_hub_reads_the_card(source: Path, tmp_path: Path) -> None:
    quantize(str(source), quant="int4", out=tmp_path / "out", smooth=False)
    data, card = metadata(tmp_path / "out"), text(tmp_path / "out")
    assert data["base_model"] == f"nvidia/{NANO}"
    assert data["base_model_relation"] == "quantized"
    assert data["license"] == "other"
    assert data["license_name"] == "nvidia-open-model-license"
    assert data["language"] == ["en", "de"]
    assert data["pipeline_tag"] == "text-generation"
    assert {"modelopt", "4-bit"} <= set(data["tags"])
    assert "widget" not in data
    assert "INT4, group 64" in card
    assert "KL divergence" in card
    assert "source's own words" not in card
    lines = card.strip().splitlines()
    assert lines[-2:] == ["hf upload OWNER/NVIDIA-Nemotron-3-Nano-30B-A3B-int4 .", "```"]


def test_licence_and_notice_are_kept(source: Path, tmp_path: Path) -> None:
    quantize(str(source), quant="int8", out=tmp_path / "one")
    assert (tmp_path / "one" / "LICENSE").read_text() == "terms\n"
    notice = "Licensed by NVIDIA Corporation under the NVIDIA Open Model License"
    assert (tmp_path / "one" / "NOTICE").read_text() == f"{notice}\n"
    assert notice in text(tmp_path / "one")
    (source / "NOTICE.txt").write_text("theirs\n")
    quantize(str(source), quant="int8", out=tmp_path / "two")
    assert (tmp_path / "two" / "NOTICE.txt").read_text() == "theirs\n"
    assert not (tmp_path / "two" / "NOTICE").exists()


def test_without_a_card_nothing_is_made_up(tmp_path: Path) -> None:
    quantize("tiny", quant="fp8", out=tmp_path / "out")
    data, card = metadata(tmp_path / "out"), text(tmp_path / "out")
    assert not {"license", "base_model", "language"} & set(data)
    assert "The source names no licence" in card
    assert "vllm serve ." in card
    assert not (tmp_path / "out" / "NOTICE").exists()


@pytest.mark.parametrize(
    "content",
    [
        "---\nlicense: [a, b\n---\n",
        "---\nlicense: &a [*a]\n---\n",
        "---\n- a list\n---\n",
        "no metadata",
        '---\nlicense: "two\\nlines"\nlicense_name: 3\nlanguage: {a: b}\n---\n',
        "---\nlicense: " + "x" * 1000 + "\n---\n",
        "\x00\xff---",
        "",
    ],
    ids=["broken", "alias", "list", "none", "other types", "long", "bytes", "empty"],
)
def test_cards_of_others_are_data(source: Path, tmp_path: Path, content: str) -> None:
    (source / "README.md").write_text(content, encoding="latin-1")
    quantize(str(source), quant="int8", out=tmp_path / "out")
    assert "license" not in metadata(tmp_path / "out")


def test_the_same_run_writes_the_same_card(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize(str(source), quant="int8", out=tmp_path / name)
    first, second = ((tmp_path / name / "README.md").read_bytes() for name in ("one", "two"))
    assert first == second
