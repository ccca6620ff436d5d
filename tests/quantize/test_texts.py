"""Files of calibration and held-out text as people have them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.quantize import text_rows, texts
from nemotron_deploy.quantize.texts import MAX_CHARACTERS, read_sequences, read_texts
from nemotron_deploy.runtime.templates import ChatTemplate

TEMPLATE = """\
{%- for message in messages -%}
<{{ message.role }}>
{%- if message.reasoning_content %}({{ message.reasoning_content }}){% endif -%}
{{ message.content }}
{%- for call in message.tool_calls or [] -%}
[{{ call.function.name }}{% for key, value in call.function.arguments|items %} {{ key }}={{ value }}
{%- endfor %}]
{%- endfor -%}
{%- endfor -%}
{%- if tools %}{{ tools | tojson }}{% endif -%}
"""
"""Like Nemotron 3's: it iterates over arguments, which a JSON text does not allow."""


@pytest.fixture
def template(tmp_path: Path) -> Iterator[ChatTemplate]:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    with ChatTemplate(tmp_path) as opened:
        yield opened


def file_of(tmp_path: Path, content: str | bytes, name: str = "c.jsonl") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def row(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def chat(*messages: dict[str, Any], **fields: Any) -> str:
    return row(messages=messages, **fields)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


CALL = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "w", "parameters": {}}}


ZIPPED = gzip.compress(row(text="a").encode(), mtime=0)
"""Without the time: tests are named after it, and each worker must give them the same names."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (row(text="a b c") + row(prompt="d e"), ["a b c", "d e"]),
        ('{"text": "a b c"}\r\n{"text": "d"}\r\n', ["a b c", "d"]),
        (row(text="a b c").encode("utf-16"), ["a b c"]),
        (row(text="é").encode("utf-16-be"), None),
        (b"\xef\xbb\xbf" + row(text="a").encode() + b"\xef\xbb\xbf" + row(text="b").encode(),
         ["a", "b"]),
        ("\n\n" + row(text="a") + "\n   \n", ["a"]),
        (json.dumps([{"text": "a"}, {"text": "b"}], indent=1), ["a", "b"]),
        (json.dumps([{"text": "a"}, {"text": "b"}]), ["a", "b"]),
        ('{\n "text": "a"\n}\n{\n "text": "b"\n}\n', ["a", "b"]),
        ('{"text": "a"},\n{"text": "b"}\n', ["a", "b"]),
        ('{"text": "line\u2028separator and \x85 next"}\n', ["line\u2028separator and \x85 next"]),
        ('{"text": "nul \\u0000 inside"}\n', ["nul \x00 inside"]),
        ('{"text": "a", "score": NaN}\n', ["a"]),
        ('{"text": "a"}', ["a"]),
        (ZIPPED, ["a"]),
        (bz2.compress(row(text="a").encode()), ["a"]),
        (lzma.compress(row(text="a").encode("utf-16")), ["a"]),
    ],
)  # fmt: skip
def test_kinds_of_files(
    tmp_path: Path, template: ChatTemplate, content: str | bytes, expected: list[str] | None
) -> None:
    file = file_of(tmp_path, content)
    if expected is None:
        with pytest.raises(BadInputError, match="contains NUL bytes, so it is a binary file or"):
            read_texts(file, template)
    else:
        assert read_texts(file, template) == (str(file), expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (row(content="a"), "a"),
        (row(instruction="do", input="", output="done"), "do\ndone"),
        (row(prompt="a", completion="b", response=None), "a\nb"),
        (row(input="a", output="b"), "a\nb"),
        (row(question="2 + 2?", answer=4), "2 + 2?\n4"),
        (row(problem="a", generated_solution="b"), "a\nb"),
        (row(article="a", highlights="b"), "a"),
        (row(text="a", prompt="", messages=[]), "a"),
        (row(text="a", messages=[user("b")]), "<user>b"),
        (row(conversation=[user("hi")]), "<user>hi"),
        (row(conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]),
         "<user>a<assistant>b"),
        (row(system="s", conversations=[{"from": "human", "value": "a"}]), "<system>s<user>a"),
        (row(conversations=[{"from": "human", "value": "a"},
                            {"from": "function_call", "value": json.dumps(CALL["function"])},
                            {"from": "observation", "value": "b"}], tools="[]"),
         "<user>a<assistant>[w x=1]<tool>b"),
        (row(input=[user("a")], output="b"), "<user>a<assistant>b"),
        (row(prompt=[user("a")], chosen=[], rejected=[]), "<user>a"),
        (row(prompt=[user("a")], chosen=[assistant("b")]), "<user>a<assistant>b"),
        (row(prompt="a", chosen=[user("a"), assistant("b")]), "<user>a<assistant>b"),
        (chat(user([{"type": "text", "text": "only"}, {"type": "text", "text": "text"}])),
         "<user>only\ntext"),
        (chat(user("2+2"), assistant("4", reasoning_content="thinking")),
         "<user>2+2<assistant>(thinking)4"),
        (chat({"role": "developer", "content": "s"}, user("a")), "<system>s<user>a"),
        (chat(user("weather?"), assistant(None, tool_calls=[CALL]),
              {"role": "tool", "tool_call_id": "c1", "content": "sunny"}, tools=[TOOL]),
         "<user>weather?<assistant>[w x=1]<tool>sunny" + json.dumps([TOOL])),
        (chat(user("a"), tools=json.dumps([TOOL])), "<user>a" + json.dumps([TOOL])),
        (chat(user("a"), functions=[TOOL["function"]]), "<user>a" + json.dumps([TOOL])),
        (chat(user("a"), assistant(None, function_call={"name": "w", "arguments": ""})),
         "<user>a<assistant>[w]"),
    ],
)  # fmt: skip
def test_keys_of_rows(tmp_path: Path, template: ChatTemplate, content: str, expected: str) -> None:
    assert read_texts(file_of(tmp_path, content), template)[1] == [expected]


def test_modelopt_takes_the_same_text_from_a_row(tmp_path: Path, template: ChatTemplate) -> None:
    from modelopt.torch.utils.dataset_utils import _auto_preprocess_sample

    rows: list[dict[str, Any]] = [
        {"prompt": "a", "completion": "b", "text": "c"},
        {"prompt": "a", "response": "b", "output": "c"},
        {"text": "a", "input": "b"},
        {"input": "a", "output": "b"},
        {"prompt": None, "text": None, "input": "a"},
    ]
    expected = [_auto_preprocess_sample(fields, "ours") for fields in rows]
    content = "".join(json.dumps(fields) + "\n" for fields in rows)
    assert read_texts(file_of(tmp_path, content), template)[1] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": has no text in it"),
        (row(text="") + row(text=None) + row(messages=[]) + "{}",
         ": has no text in it (4 empty rows skipped)"),
        ('{"text": "a"}\n{', ", line 2: not JSON: Expecting property name enclosed in double"),
        (row(text="a") + '{"text": "b',
         ", line 2: not JSON: Unterminated string starting at column 10; the file is truncated"),
        ('[\n {"text": "a"},\n {"text" "b"}\n]', ", line 3: not JSON: Expecting ':' delimiter"),
        ('[\n {"text": "a"}', ": is truncated: the array that begins on line 1 has no end"),
        ('\n[\n {"text": "a"}, 1]', ", line 3: is not a JSON object"),
        ("[1]", ", line 1: is not a JSON object"),
        ("Some text.\nAnother line.\n", ", line 1: not JSON but plain text; write each text as"),
        (row(text="a") + "b\n", ", line 2: not JSON but plain text"),
        ('{"text": "a", "text": "b"}\n', ", line 1: not JSON: a key stands in it twice: text"),
        (row(text="a").encode() + b'{"text": "\xff"}\n', ", line 2: not UTF-8"),
        (b'[\n{"text": "a"},\n{"text": "\xff"}]', ", line 3: not UTF-8"),
        (row(text="\ud83d"), ", line 1: has half a surrogate pair, '\\ud83d'"),
        (b"PAR1" + bytes(40) + b"PAR1", ": is a Parquet file; write its rows as JSON lines"),
        (b"PK\x03\x04" + bytes(40), ": is a ZIP archive or a spreadsheet"),
        ("version https://git-lfs.github.com/spec/v1\noid", ": is a pointer of git-lfs"),
        ("<!DOCTYPE html>\n<html>", ": is an HTML page; download the file itself"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), ": is compressed with Zstandard; unpack it"),
        (ZIPPED[:-9], ": cannot be read: Compressed file ended"),
        (b"\x80\x04" + bytes(40), ": contains NUL bytes, so it is a binary file"),
        ('{"a":' + "[" * 100 + "]" * 100 + "}", ", line 1: it is nested deeper than 64 levels"),
        ('{"a":' + "[" * 100_000, ", line 1: not JSON: it is nested too deeply"),
        (row(input_ids=[1, 2, 3]), ", line 1: holds token ids (`input_ids`) of some tokenizer"),
        (row(texts=[]), ", line 1: needs `text`, `prompt` or `messages`, but has `texts`"),
        (row(messages="x"), ", line 1: `messages`: must be a list of messages, not the text 'x'"),
        (row(text={"a": 1}), ", line 1: `text` must be text or a list of messages"),
        (chat({"rolle": "user"}), ", line 1: `messages`: message 1 has no `role` (or `from`)"),
        (chat(user("a"), {"role": "x", "content": "a"}), "message 2 has the role 'x'; known are"),
        (chat(user([{"type": "image_url", "image_url": {"url": "u"}}])),
         ", line 1: `messages`: message 1 has a part of type 'image_url'; this model takes text"),
        (chat(assistant(None, tool_calls=[{"function": {"name": "w", "arguments": "{x"}}])),
         "`arguments` of message 1, tool call 1 is not JSON"),
        (chat(assistant(None, tool_calls=[{"function": {"name": "w", "arguments": "[1]"}}])),
         "`arguments` of message 1, tool call 1 must be an object, not a list of 1"),
        (chat(assistant(None, tool_calls=[{"function": {"arguments": "[" * 900 + "]" * 900}}])),
         "`arguments` of message 1, tool call 1 is not JSON: it is nested deeper"),
        (chat(user("a"), tools="x"), ", line 1: `tools` is not JSON"),
        (chat(user("a"), tools={"a": 1}), ", line 1: `tools` must be a list of objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, template: ChatTemplate, content: str | bytes, message: str
) -> None:
    file = file_of(tmp_path, content)
    with pytest.raises(BadInputError) as refused:
        read_texts(file, template)
    assert str(refused.value).startswith(str(file))
    assert message in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_missing_file(tmp_path: Path, template: ChatTemplate) -> None:
    with pytest.raises(BadInputError, match=r"none\.jsonl: there is no such text file"):
        read_texts(tmp_path / "none.jsonl", template)


def test_empty_rows_are_counted(tmp_path: Path, template: ChatTemplate) -> None:
    file = file_of(tmp_path, row(text="") + row(text="a") + row(messages=[]) + row(text=" "))
    assert read_texts(file, template) == (f"{file} (3 empty rows skipped)", ["a"])


def test_a_long_file_is_read_up_to_the_texts_that_are_used(
    tmp_path: Path, template: ChatTemplate
) -> None:
    whole = file_of(tmp_path, row(text="a") * texts.MAX_TEXTS)
    assert read_texts(whole, template) == (str(whole), ["a"] * texts.MAX_TEXTS)
    longer = file_of(tmp_path, row(text="a") * texts.MAX_TEXTS + row(text="b") + "never read")
    source, read = read_texts(longer, template)
    assert source == f"{longer} (only its first 1,024 texts)"
    assert read == ["a"] * texts.MAX_TEXTS


def test_long_texts_are_cut_before_they_are_tokenized(tmp_path: Path) -> None:
    long = "word " * 1_000_000
    rows = row(text=long) + row(prompt=long, completion="b") + chat(user(long), assistant("b"))
    file = file_of(tmp_path, rows)
    with ChatTemplate(TINY) as template:
        cut, joined, rendered = read_texts(file, template)[1]
    assert cut == joined == long[:MAX_CHARACTERS]
    assert rendered == ("<|im_start|>user\n" + long)[:MAX_CHARACTERS]
    _, sequences = read_sequences(Checkpoint.open(TINY), file)
    assert [len(ids) for ids in sequences] == [texts.MAX_TOKENS] * 3


def test_a_long_log_is_cut_before_it_is_rendered(tmp_path: Path, template: ChatTemplate) -> None:
    thought = assistant("b", reasoning_content="c" * MAX_CHARACTERS)
    file = file_of(tmp_path, chat(*[user("a" * MAX_CHARACTERS), thought] * 600))
    (text,) = read_texts(file, template)[1]
    assert text == ("<user>" + "a" * MAX_CHARACTERS)[:MAX_CHARACTERS]


def test_many_values_that_are_not_used_are_skipped(tmp_path: Path, template: ChatTemplate) -> None:
    file = file_of(tmp_path, row(text="a", scores=[0.0] * 1_200_000))
    assert read_texts(file, template)[1] == ["a"]


def test_a_line_and_its_values_are_limited(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_rows, "MAX_CHARACTERS", 1000)
    monkeypatch.setattr(text_rows, "MAX_VALUES", 100)
    too_long = file_of(tmp_path, row(text="a") + row(text="b" * 1000))
    with pytest.raises(BadInputError, match="line 2: is longer than 1,000 characters; split it"):
        read_texts(too_long, template)
    too_long = file_of(tmp_path, json.dumps([{"text": "b" * 50}] * 20, indent=1))
    with pytest.raises(BadInputError, match="is one JSON document of over 1,000 characters; write"):
        read_texts(too_long, template)
    too_many = file_of(tmp_path, row(text="a") + row(text="b", scores=[0] * 101))
    with pytest.raises(BadInputError, match="line 2: has more than 100 values; keep its text only"):
        read_texts(too_many, template)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
    st.booleans(),
    st.sampled_from(["lines", "array", "pretty"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_text_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[str],
    ascii_only: bool,
    form: str,
    encoding: str,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [{"text": text} for text in (*written, "end")]
    content = {
        "lines": "".join(json.dumps(fields, ensure_ascii=ascii_only) + "\n" for fields in rows),
        "array": json.dumps(rows, ensure_ascii=ascii_only),
        "pretty": json.dumps(rows, ensure_ascii=ascii_only, indent=2),
    }[form]
    file = file_of(folder, content.encode(encoding))
    with ChatTemplate(folder) as unused:
        assert read_texts(file, unused)[1] == [text for text in (*written, "end") if text.strip()]
