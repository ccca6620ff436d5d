"""Which tokens end an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.model.ending import end_tokens


def write(folder: Path, name: str, **fields: object) -> None:
    (folder / name).write_text(json.dumps(fields))


@pytest.mark.parametrize(("named", "ids"), [(11, (11,)), ([2, 11], (2, 11))])
def test_named_tokens(tmp_path: Path, named: object, ids: tuple[int, ...]) -> None:
    write(tmp_path, "generation_config.json", eos_token_id=named)
    found = end_tokens(tmp_path, {"eos_token_id": 7})
    assert (found.ids, found.completed, found.warning) == (ids, None, None)


@pytest.mark.parametrize("named", [None, [], "2", [2, "11"], True, {}, 2.5])
def test_what_names_none_is_completed_from_the_configuration(tmp_path: Path, named: object) -> None:
    write(tmp_path, "generation_config.json", eos_token_id=named, temperature=1.0)
    found = end_tokens(tmp_path, {"eos_token_id": 7})
    assert found.ids == (7,)
    assert found.completed == {"eos_token_id": 7, "temperature": 1.0}


def test_the_tokenizer_names_the_end_of_a_turn(tiny_copy: Path) -> None:
    (tiny_copy / "generation_config.json").unlink()
    for token in ("<|im_end|>", {"content": "<|im_end|>", "lstrip": False}):
        write(tiny_copy, "tokenizer_config.json", eos_token=token)
        assert end_tokens(tiny_copy, {"eos_token_id": [1, 2]}).ids == (1, 2)
        assert end_tokens(tiny_copy, {}).completed == {"eos_token_id": 2}


@pytest.mark.parametrize("token", [None, "", "no such token", 5])
def test_without_any_there_is_a_warning_and_nothing_is_made_up(
    tiny_copy: Path, token: object
) -> None:
    (tiny_copy / "generation_config.json").unlink()
    write(tiny_copy, "tokenizer_config.json", eos_token=token)
    found = end_tokens(tiny_copy, {})
    assert (found.ids, found.completed) == ((), None)
    assert found.warning is not None
    assert "stops at its length limit only" in found.warning
