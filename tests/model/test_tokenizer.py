"""Tokenizers that somebody else made are checked in a child process before they are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.tokenizer import check_tokenizer, encode


def test_a_good_tokenizer_passes_and_encodes() -> None:
    path = TINY / "tokenizer.json"
    size = json.loads((TINY / "config.json").read_text())["vocab_size"]
    check_tokenizer(path, size)
    first, second = encode(path, ["What is 2 plus 3?", "x" * 500], 7)
    assert 0 < len(first) <= 7
    assert len(second) == 7


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"tokenizer\.json: this tokenizer is refused"):
        check_tokenizer(TINY / "tokenizer.json", 100)


def test_a_tokenizer_of_nanos_size_passes(tmp_path: Path) -> None:
    fields = json.loads((TINY / "tokenizer.json").read_text())
    size = 131_072
    vocabulary = fields["model"]["vocab"]
    for number in range(len(vocabulary) + len(fields["added_tokens"]), size):
        vocabulary[f"token-of-some-length-{number:08}-and-more-of-it-to-make-it-long{'x' * 60}"] = (
            number
        )
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    assert (tmp_path / "tokenizer.json").stat().st_size > 16_000_000
    check_tokenizer(tmp_path / "tokenizer.json", size)
