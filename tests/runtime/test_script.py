"""Scripts: what can be played, and one message with file and line for what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_deploy.runtime.script import ScriptedAnswer, ScriptError, read_script


def written(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "answers.jsonl"
    path.write_bytes(b"\n".join(x.encode() if isinstance(x, str) else x for x in lines))
    return path


def test_answers_are_read_in_their_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"when": "a", "pieces": ["x", {"hex": "e697"}, "é", {"hex": "A5 "}], "pace_ms": 2.5}',
        "  ",
        '{"pieces": [], "when": ""}\r',
    )
    assert read_script(path) == [
        ScriptedAnswer("a", (b"x", b"\xe6\x97", "é".encode(), b"\xa5"), 0.0025),
        ScriptedAnswer("", (), 0.0),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not readable as JSON"),
        (b"\xff", "not readable as JSON"),
        ("[]", "must be a JSON object with when, pieces, pace_ms"),
        ('{"when": "a", "pieces": [], "pace": 1}', "unknown field 'pace'"),
        ('{"pieces": []}', "`when` must be a text"),
        ('{"when": "a"}', "`pieces` must be a list"),
        ('{"when": "a", "pieces": "abc"}', "`pieces` must be a list"),
        ('{"when": "a", "pieces": [], "pace_ms": -1}', "`pace_ms` must be a number from 0"),
        ('{"when": "a", "pieces": [], "pace_ms": true}', "`pace_ms` must be a number"),
        ('{"when": "a", "pieces": [], "pace_ms": Infinity}', "`pace_ms` must be a number"),
        ('{"when": "a", "pieces": ["x", 1]}', r"pieces\[1\] must be a text or"),
        ('{"when": "a", "pieces": [{"hex": "e6", "x": 1}]}', r"pieces\[0\] must be a text or"),
        ('{"when": "a", "pieces": [{"hex": "6"}]}', r"pieces\[0\]: '6' is not hexadecimal"),
        (r'{"when": "a", "pieces": ["\ud83d"]}', r"pieces\[0\] holds half of a surrogate pair"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str | bytes, said: str) -> None:
    path = written(tmp_path, '{"when": "", "pieces": []}', "", line)
    with pytest.raises(ScriptError, match=said) as refused:
        read_script(path)
    assert str(refused.value).startswith(f"{path}:3: ")
    assert "\n" not in str(refused.value)


def test_files_without_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"none\.jsonl: cannot be read: No such file"):
        read_script(tmp_path / "none.jsonl")
    with pytest.raises(ScriptError, match="cannot be read: Is a directory"):
        read_script(tmp_path)
    with pytest.raises(ScriptError, match="has no answer; write one JSON object on each line"):
        read_script(written(tmp_path, "", " "))
