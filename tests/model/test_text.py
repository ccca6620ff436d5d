"""The generated text: deterministic, split by what is asked, and right."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_deploy.model.catalog import text

QUESTION = re.compile(r"<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n$")


def question(prompt: text.Prompt) -> str:
    found = QUESTION.search(prompt.text)
    assert found, prompt.text
    return found[1]


def sums(questions: list[str]) -> set[tuple[int, ...]]:
    """The two numbers of every addition among `questions`."""
    found = set()
    for asked in questions:
        if match := re.fullmatch(r"What is (\d+) \+ (\d+)\?|Add (\d+) and (\d+)\.", asked):
            found.add(tuple(int(number) for number in match.groups() if number))
    return found


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from(["train", "heldout"]), st.integers(0, 20))
def test_the_same_seed_gives_the_same_text_and_fewer_are_a_prefix(
    seed: int, split: text.Split, count: int
) -> None:
    texts = list(text.documents(seed, 20, split=split))
    assert list(text.documents(seed, count, split=split)) == texts[:count]
    assert len(texts) == 20


def test_another_seed_gives_other_text() -> None:
    assert list(text.documents(1, 20)) != list(text.documents(2, 20))
    assert text.prompts(1, 20) != text.prompts(2, 20)


def test_text_does_not_depend_on_the_process() -> None:
    program = (
        "from nemotron_deploy.model.catalog import text; print(next(text.documents(5, 1)), end='')"
    )
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout == next(text.documents(5, 1))


def test_documents_are_read_lazily() -> None:
    assert len(list(islice(text.documents(0, 10**12), 3))) == 3


def test_chats_close_every_turn_and_some_documents_are_plain() -> None:
    texts = list(text.documents(3, 200))
    chats = [document for document in texts if document.startswith("<|im_start|>user\n")]
    plain = [document for document in texts if "<|im" not in document]
    assert len(chats) + len(plain) == len(texts)
    assert chats
    assert plain
    for chat in chats:
        assert chat.count("<|im_start|>") == chat.count(text.TURN_END)
        assert chat.endswith(text.TURN_END + "\n")


def test_additions_are_split_however_they_are_phrased() -> None:
    train = sums([question(prompt) for prompt in text.prompts(0, 4000, split="train")])
    heldout = sums([question(prompt) for prompt in text.prompts(0, 1000, split="heldout")])
    assert len(train) > len(heldout) > 5
    assert not train & heldout


def test_questions_that_generalise_are_in_one_split_and_facts_in_both() -> None:
    train = {question(prompt) for prompt in text.prompts(1, 4000, split="train")}
    heldout = {question(prompt) for prompt in text.prompts(2, 1000, split="heldout")}
    facts = ("What is the capital", "Name the capital", "What is the opp", "What comes", "Spell")
    shared = train & heldout
    assert any(asked.startswith("Name the capital") for asked in shared)
    assert all(asked.startswith(facts) for asked in shared)


def test_answers_are_right() -> None:
    answers = {}
    for prompt in text.prompts(3, 2000, split="train"):
        answers[question(prompt)] = prompt.answer
    assert answers["What is the capital of France?"] == "Paris"
    assert answers["What comes after Sunday?"] == "Monday"
    assert answers["What comes before January?"] == "December"
    assert answers["What is the opposite of cold?"] == "hot"
    assert answers["Spell train."] == "t-r-a-i-n"
    checked = 0
    for asked, answer in answers.items():
        if match := re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", asked):
            a, b = int(match[1]), int(match[3])
            assert int(answer) == (a + b if match[2] == "+" else a - b)
        elif match := re.fullmatch(r"\w+ has (\d+) \w+ and gets (\d+) more\. .*", asked):
            assert int(answer) == int(match[1]) + int(match[2])
        elif match := re.fullmatch(r"Which is larger, (\d+) or (\d+)\?", asked):
            assert int(answer) == max(int(match[1]), int(match[2]))
        elif match := re.fullmatch(r"Count on: \d+, \d+, (\d+)", asked):
            assert answer == ", ".join(str(int(match[1]) + step) for step in (1, 2, 3))
        elif match := re.fullmatch(r"What is the (first|last) word of: (.*)\?", asked):
            assert answer == match[2].split()[0 if match[1] == "first" else -1]
        elif match := re.fullmatch(r"Repeat: (.*)", asked):
            assert answer == match[1]
        else:
            continue
        checked += 1
    assert checked > 500


@pytest.mark.parametrize("turns", [1, 3])
def test_prompts_hold_that_many_questions_and_end_where_the_assistant_starts(turns: int) -> None:
    for prompt in text.prompts(4, 20, turns=turns):
        assert prompt.text.count("<|im_start|>user\n") == turns
        assert prompt.text.count("<|im_start|>assistant\n") == turns
        assert prompt.text.endswith("<|im_start|>assistant\n")
        assert prompt.answer
        assert text.TURN_END not in prompt.answer


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import sys; import nemotron_deploy.model.catalog.text; "
        "print(*(name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules))"
    )
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
