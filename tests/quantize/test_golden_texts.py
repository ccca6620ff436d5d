"""The texts of golden outputs: whose they are, and that they are enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model.catalog import TINY, text
from nemotron_deploy.model.tokenizer import TOKENIZER_NAME, encode
from nemotron_deploy.quantize import golden_texts
from nemotron_deploy.quantize.texts import built_in_texts
from nemotron_deploy.runtime.templates import ChatTemplate


@pytest.fixture
def other_tokenizer(tiny_copy: Path) -> Path:
    """A checkpoint whose tokenizer is not the embedded one's, to the byte."""
    path = tiny_copy / TOKENIZER_NAME
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    return tiny_copy


def test_the_embedded_model_gets_what_it_was_trained_on() -> None:
    documents = "".join(text.documents(0, 128, split="heldout"))
    assert all(prompt in documents for prompt, _ in golden_texts.cases(TINY))


def test_a_real_model_gets_real_text(other_tokenizer: Path) -> None:
    with ChatTemplate(other_tokenizer) as template:
        _, texts = built_in_texts(template, "heldout")
        _, train = built_in_texts(template, "train")
    cases = golden_texts.cases(other_tokenizer)
    assert len({prompt for prompt, _ in cases}) == len(cases) == golden_texts.PROMPTS
    sources = [next(whole for whole in texts if prompt in whole) for prompt, _ in cases]
    assert len(set(sources)) == golden_texts.PROMPTS
    assert not any(prompt in whole for prompt, _ in cases for whole in train)
    chats = [whole for whole in sources if "<|im_start|>assistant" in whole]
    assert 4 <= len(chats) <= 12
    assert any("def " in whole or "return" in whole for whole in sources)
    assert any(not prompt.isascii() for prompt, _ in cases)
    for (prompt, case), whole in zip(cases, sources, strict=True):
        assert len(case.forced) == golden_texts.FORCED_TOKENS
        assert 160 <= len(prompt) <= 520
        # A server is asked for the tokens of the text, which must be those of the case.
        (ids,) = encode(other_tokenizer / TOKENIZER_NAME, [prompt], 2048)
        assert tuple(ids) == case.prompt
        assert whole.index(prompt) > 0


def test_a_base_model_gets_text_without_chats(other_tokenizer: Path) -> None:
    (other_tokenizer / "chat_template.jinja").unlink(missing_ok=True)
    path = other_tokenizer / "tokenizer_config.json"
    if path.exists():
        config = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in config.items() if k != "chat_template"}))
    cases = golden_texts.cases(other_tokenizer)
    assert len({prompt for prompt, _ in cases}) == golden_texts.PROMPTS
    assert not any("<|im_start|>" in prompt for prompt, _ in cases)


def test_a_tokenizer_that_gives_nothing(other_tokenizer: Path) -> None:
    path = other_tokenizer / TOKENIZER_NAME
    document = json.loads(path.read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"Regex": r"[\s\S]+"}, "content": ""}
    path.write_text(json.dumps(document))
    with pytest.raises(BadInputError, match="gives no token for ordinary text"):
        golden_texts.cases(other_tokenizer)
