#!/usr/bin/python3 -ISE
"""FAKE. A kubectl that plays recorded answers from the file `$FAKE_KUBECTL/answers.json`, and notes
how it was called in `$FAKE_KUBECTL/calls.jsonl`.

An answer is `{"when": [WORD, ...], "out": TEXT, "err": TEXT, "code": N, "hold": BOOL}`. The first
whose words all stand in the command line is played. Of several with the same words each is played
once, the last one for ever. One that holds makes the file `$FAKE_KUBECTL/held`, and ends only when
it is killed. As the real one does, it writes warnings to standard error although all is well, and
refuses what it does not know with exit code 1.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

folder = Path(os.environ["FAKE_KUBECTL"])
words = sys.argv[1:]
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(words) + "\n")
before = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
answers = json.loads((folder / "answers.json").read_text())


def is_for(answer: dict[str, Any], call: list[str]) -> bool:
    return all(word in call for word in answer["when"])


def first(call: list[str]) -> list[str] | None:
    return next((answer["when"] for answer in answers if is_for(answer, call)), None)


when = first(words)
same = [answer for answer in answers if answer["when"] == when]
if when is None:
    sys.stderr.write(f"error: the fake kubectl has no answer for {words}\n")
    sys.exit(1)
played = sum(first(call) == when for call in before) - 1
answer = same[min(played, len(same) - 1)]
if answer.get("hold"):
    (folder / "held").touch()
    signal.pause()
sys.stderr.write(answer.get("err", "Warning: the fake kubectl warns although all is well\n"))
sys.stdout.write(answer.get("out", ""))
sys.exit(answer.get("code", 0))
