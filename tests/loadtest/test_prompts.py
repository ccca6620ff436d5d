from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.loadtest_work import LoadedTokenizer, Source, requests_of
from nemotron_deploy.core.errors import BadInputError, UsageError
from nemotron_deploy.loadtest.prompts import Lengths, PromptMaker, Work, from_file, unrepeated
from nemotron_deploy.loadtest.trace import (
    BLOCK_TOKENS,
    Conversation,
    TraceRow,
    read_trace,
    work_of,
)
from nemotron_deploy.model.catalog import TINY


@pytest.fixture(scope="module")
def tokenizer() -> LoadedTokenizer:
    return LoadedTokenizer(TINY)


def work(source: Source, tokenizer: LoadedTokenizer | None = None, seed: int = 1) -> Iterator[Work]:
    return requests_of(source, max_tokens=8, tokenizer=tokenizer, seed=seed, warmup=1).work


@pytest.mark.parametrize("length", [1, 7, 512, 4000])
def test_prompts_have_exactly_the_wanted_length(tokenizer: LoadedTokenizer, length: int) -> None:
    made = islice(work(Source(prompt_tokens=str(length)), tokenizer), 5)
    assert [tokenizer.count(each.prompt) for each in made] == [length] * 5


def test_lengths_are_spread_over_their_range(tokenizer: LoadedTokenizer) -> None:
    made = islice(work(Source(prompt_tokens="20:40"), tokenizer), 300)
    lengths = {tokenizer.count(each.prompt) for each in made}
    assert lengths == set(range(20, 41))


def test_no_prompt_comes_twice_and_the_seed_repeats_them(tokenizer: LoadedTokenizer) -> None:
    for source in (Source(prompt_tokens="3"), Source()):
        one, again, other = (
            [each.prompt for each in islice(work(source, tokenizer, seed), 400)]
            for seed in (1, 1, 2)
        )
        assert len(set(one)) == 400
        assert one == again
        assert len({*one, *other}) > 700


def test_a_share_of_each_prompt_is_the_same(tokenizer: LoadedTokenizer) -> None:
    source = Source(prompt_tokens="40", shared_prefix=0.75)
    texts = [each.prompt for each in islice(work(source, tokenizer), 50)]
    rows = [tokenizer.encode(text) for text in texts]
    assert len({tuple(row[:30]) for row in rows}) == 1
    assert len({tuple(row[30:]) for row in rows}) == 50
    assert {len(row) for row in rows} == {40}


def test_prompts_that_cannot_all_differ_are_refused(tokenizer: LoadedTokenizer) -> None:
    with pytest.raises(UsageError, match="no more different prompts of 1 tokens"):
        list(islice(work(Source(prompt_tokens="1"), tokenizer), 100_000))


def test_a_tokenizer_without_words_is_refused() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return list(map(ord, text))

        def decode(self, ids: Any) -> str:
            return "".join(map(chr, ids))

        def size(self) -> int:
            return 128

    with pytest.raises(BadInputError, match="0 words that are one token each"):
        PromptMaker(Letters(), 1)


@pytest.mark.parametrize("text", ["", "0", "-1", "5:4", "x", "1:", "1:2:3", "1.5"])
def test_other_lengths_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--prompt-tokens"):
        Lengths.parse(text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompts": Path("x"), "trace": Path("y")}, "exclude each other"),
        ({"shared_prefix": 0.5}, "--shared-prefix is for"),
        ({"shared_prefix": 1.0, "prompt_tokens": "5"}, "from 0 to below 1"),
    ],
)
def test_sources_that_exclude_each_other(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Source(**fields)


def test_exact_lengths_need_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tokenizer"):
        work(Source(prompt_tokens="5"))
    with pytest.raises(BadInputError, match="no such file"):
        LoadedTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"is no tokenizer\.json"):
        LoadedTokenizer(tmp_path)


def test_a_file_holds_a_prompt_a_line_as_text_or_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('Hello.\n\n{"prompt": "A\\nB", "output_length": 3}\n{"prompt": "C"}\n')
    found = from_file(path, 8)
    assert found == [Work("Hello.", 8), Work("A\nB", 3), Work("C", 8)]
    repeated = [each.prompt for each in islice(unrepeated(found), 9)]
    assert repeated[:4] == ["Hello.", "A\nB", "C", "(2) Hello."]
    assert len(set(repeated)) == 9


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no prompts"),
        ("a\n{", r":2: not readable as JSON"),
        ('{"prompt": 3}', ":1: needs a text `prompt`"),
        ('{"prompt": ""}', ":1: needs a text `prompt`"),
        ('{"prompt": "x", "output_length": true}', ":1: needs a text `prompt`"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(BadInputError, match=problem):
        from_file(path, 8)
    with pytest.raises(BadInputError, match="cannot be read"):
        from_file(tmp_path / "none", 8)


def test_a_trace_in_mooncakes_form_is_replayed(tmp_path: Path, tokenizer: LoadedTokenizer) -> None:
    rows = [
        {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 1000, "input_length": 1200, "output_length": 7, "hash_ids": [1, 3, 4]},
        {"timestamp": 1500, "prompt": "Hello.", "input_length": 9},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = requests_of(Source(trace=path), max_tokens=8, tokenizer=tokenizer, seed=1, warmup=1)
    assert found.schedule == (0.0, 0.5, 2.0)
    warm, *replayed = found.work
    assert warm.prompt not in [each.prompt for each in replayed]
    assert [each.max_tokens for each in replayed] == [7, 8, 5]
    assert [tokenizer.count(each.prompt) for each in (replayed[0], replayed[2])] == [1200, 700]
    assert replayed[1].prompt == "Hello."
    first, second = (tokenizer.encode(each.prompt) for each in (replayed[0], replayed[2]))
    assert first[:BLOCK_TOKENS] == second[:BLOCK_TOKENS], "both name the first block"
    assert first[BLOCK_TOKENS] != second[BLOCK_TOKENS] or first[520:560] != second[520:560]


def test_equal_rows_of_a_trace_are_different_prompts(tokenizer: LoadedTokenizer) -> None:
    maker = PromptMaker(tokenizer, 1)
    row = Conversation(0.0, (TraceRow(0.0, 5, input_length=512, hash_ids=(9,)),))
    one, other = (tokenizer.encode(work_of(row, maker).prompt) for _ in range(2))
    assert one[:-1] == other[:-1]
    assert one[-1] != other[-1]


def test_lengths_in_a_trace_need_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5}')
    with pytest.raises(BadInputError, match="--tokenizer"):
        work(Source(trace=path))


@pytest.mark.parametrize(
    "line",
    [
        "x", "[]", "{}", '{"timestamp": 1}', '{"timestamp": "1", "input_length": 3}',
        '{"timestamp": -1, "input_length": 3}', '{"timestamp": 1, "input_length": 0}',
        '{"timestamp": 1, "input_length": 3, "hash_ids": ["a"]}',
        '{"timestamp": 1, "input_length": 3, "output_length": 0}',
        '{"timestamp": NaN, "input_length": 3}', '{"session_id": 1, "delay": -1, "prompt": "x"}',
        '{"session_id": "new", "delay": 1, "prompt": "x"}',
    ],
)  # fmt: skip
def test_a_wrong_line_of_a_trace_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "prompt": "x"}\n' + line)
    with pytest.raises(BadInputError, match=r"trace\.jsonl:2: "):
        read_trace(path, 8)


def test_an_empty_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n")
    with pytest.raises(BadInputError, match="holds no requests"):
        read_trace(path, 8)


def test_rows_of_a_session_are_the_turns_of_a_conversation(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 2000, "prompt": "alone"},
        {"session_id": "s", "timestamp": 500, "prompt": "one", "output_length": 3},
        {"session_id": "s", "delay": 1500, "prompt": "two"},
        {"session_id": "s", "prompt": "three"},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = requests_of(Source(trace=path), max_tokens=8, tokenizer=None, seed=1, warmup=0)
    assert found.schedule == (0.0, 1.5)
    three = Work("three", 8)
    assert list(found.work) == [
        Work("one", 3, Work("two", 8, three, 0.0), 1.5),
        Work("alone", 8),
    ]
