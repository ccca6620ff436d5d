"""The text that the embedded `tiny` checkpoint is trained on, and questions to ask it.

Small English whose right answers a reader recognises at once: sums, weekdays, opposites, capitals,
counting on, copying. Pure Python and a function of the seed alone, so it also serves as calibration
text and as load-test prompts.

Questions that can be worked out (a sum, a list to repeat) belong to the `train` or to the `heldout`
split by a hash of what is asked, however it is phrased; facts that can only be remembered (a
capital, an opposite) occur in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final, Literal

Split = Literal["train", "heldout"]

TURN_END: Final = "<|im_end|>"
"""Ends every turn of a chat: the checkpoint's end-of-sequence token."""

_HELDOUT_SHARE: Final = 8
"""One question in so many is held out."""

_DAYS: Final = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS: Final = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
_CAPITALS: Final = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "Egypt": "Cairo", "Greece": "Athens", "Norway": "Oslo", "Poland": "Warsaw", "Cuba": "Havana",
    "Peru": "Lima", "Kenya": "Nairobi", "Austria": "Vienna", "Ireland": "Dublin", "Iran": "Tehran",
    "Portugal": "Lisbon", "Sweden": "Stockholm", "Finland": "Helsinki", "China": "Beijing",
    "Canada": "Ottawa",
}  # fmt: skip
_OPPOSITES: Final = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "wet": "dry",
    "open": "closed", "fast": "slow", "full": "empty", "high": "low", "old": "new", "rich": "poor",
    "early": "late", "happy": "sad", "light": "dark", "hard": "soft",
}  # fmt: skip
_WORDS: Final = [
    "apple", "ball", "bird", "boat", "book", "cat", "chair", "cloud", "cup", "dog", "door",
    "egg", "fish", "hat", "horse", "house", "key", "lamp", "leaf", "moon", "mouse", "river",
    "road", "rose", "ship", "star", "stone", "sun", "table", "train", "tree", "wind",
]  # fmt: skip
_NAMES: Final = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry"]
_THINGS: Final = ["apples", "books", "cups", "eggs", "keys", "stones"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question in the checkpoint's chat format, up to where the assistant speaks, and the right
    completion (without the end-of-turn token). `question` is the last question in plain words."""

    text: str
    answer: str
    question: str


@dataclass(frozen=True, slots=True)
class _Fact:
    """One thing to ask about. `subject` decides the split; None where it can only be remembered."""

    question: str
    answer: str
    statement: str
    subject: str | None = None


def documents(seed: int, count: int, *, split: Split = "train") -> Iterator[str]:
    """Yield `count` training texts: chats of one to three turns, and some plain sentences.

    The same `seed` and `split` always give the same texts, and fewer are a prefix of more.
    """
    facts = _facts(_random("documents", split, seed), split)
    shape = _random("shapes", split, seed)
    for _ in range(count):
        turns = shape.choice((1, 1, 2, 3))
        if shape.random() < 0.2:
            yield " ".join(fact.statement for fact in islice(facts, turns)) + "\n"
        else:
            yield "".join(_exchange(fact) for fact in islice(facts, turns))


def prompts(seed: int, count: int, *, split: Split = "heldout", turns: int = 1) -> list[Prompt]:
    """Return `count` questions with their right answers, the same for the same arguments.

    Each text holds `turns` questions, all but the last one answered: more turns, longer prompts.
    """
    facts = _facts(_random("prompts", split, seed), split)
    result = []
    for _ in range(count):
        *answered, asked = islice(facts, turns)
        earlier = "".join(_exchange(fact) for fact in answered)
        text = earlier + _turn("user", asked.question) + "<|im_start|>assistant\n"
        result.append(Prompt(text, asked.answer, asked.question))
    return result


def _random(*name: object) -> Random:
    return Random(" ".join(map(str, name)))  # noqa: S311 - wanted: the same text every time


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}{TURN_END}\n"


def _exchange(fact: _Fact) -> str:
    return _turn("user", fact.question) + _turn("assistant", fact.answer)


def _facts(rng: Random, split: Split) -> Iterator[_Fact]:
    """Endless facts of one split, every topic as often in either."""
    while True:
        topic = rng.choice(_TOPICS)
        fact = topic(rng)
        while fact.subject is not None and _split(fact.subject) != split:
            fact = topic(rng)
        yield fact


def _split(subject: str) -> Split:
    number = int.from_bytes(hashlib.sha256(subject.encode()).digest())
    return "train" if number % _HELDOUT_SHARE else "heldout"


def _addition(rng: Random) -> _Fact:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    question = rng.choice((f"What is {a} + {b}?", f"Add {a} and {b}."))
    return _Fact(question, str(a + b), f"{a} + {b} = {a + b}.", f"{a} + {b}")


def _subtraction(rng: Random) -> _Fact:
    b, rest = rng.randint(0, 9), rng.randint(0, 9)
    a = b + rest
    question = rng.choice((f"What is {a} - {b}?", f"Take {b} from {a}."))
    return _Fact(question, str(rest), f"{a} - {b} = {rest}.", f"{a} - {b}")


def _story(rng: Random) -> _Fact:
    """A sum told as a story; shares its subject with the plain sum."""
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    told = f"{name} has {a} {things} and gets {b} more."
    question = f"{told} How many is that?"
    return _Fact(question, str(a + b), f"{told} That is {a + b}.", f"{a} + {b}")


def _comparison(rng: Random) -> _Fact:
    a, b = rng.sample(range(10), 2)
    question = f"Which is larger, {a} or {b}?"
    return _Fact(question, str(max(a, b)), f"{max(a, b)} > {min(a, b)}.", f"{a} or {b}")


def _counting(rng: Random) -> _Fact:
    start = rng.randint(0, 93)
    numbers = [str(n) for n in range(start, start + 6)]
    shown, rest = ", ".join(numbers[:3]), ", ".join(numbers[3:])
    return _Fact(f"Count on: {shown}", rest, f"{shown}, {rest}.", f"count {start}")


def _copying(rng: Random) -> _Fact:
    words = " ".join(rng.sample(_WORDS, rng.randint(2, 3)))
    return _Fact(f"Repeat: {words}", words, f"{words}, {words}.", words)


def _position(rng: Random) -> _Fact:
    words = rng.sample(_WORDS, 3)
    which, word = rng.choice((("first", words[0]), ("last", words[-1])))
    listed = " ".join(words)
    question = f"What is the {which} word of: {listed}?"
    return _Fact(question, word, f"The {which} word of {listed} is {word}.", f"{which} {listed}")


def _neighbour(rng: Random) -> _Fact:
    names, index = rng.choice((_DAYS, _MONTHS)), rng.randrange(12)
    here, there = names[index % len(names)], names[(index + 1) % len(names)]
    if rng.random() < 0.5:
        return _Fact(f"What comes after {here}?", there, f"{there} comes after {here}.")
    return _Fact(f"What comes before {there}?", here, f"{here} comes before {there}.")


def _opposite(rng: Random) -> _Fact:
    word, other = rng.sample(rng.choice(tuple(_OPPOSITES.items())), 2)
    return _Fact(f"What is the opposite of {word}?", other, f"The opposite of {word} is {other}.")


def _capital(rng: Random) -> _Fact:
    country, city = rng.choice(tuple(_CAPITALS.items()))
    question = rng.choice((f"What is the capital of {country}?", f"Name the capital of {country}."))
    return _Fact(question, city, f"{city} is the capital of {country}.")


def _spelling(rng: Random) -> _Fact:
    word = rng.choice(_WORDS)
    letters = "-".join(word)
    return _Fact(f"Spell {word}.", letters, f"{word} is spelled {letters}.")


_TOPICS: Final[tuple[Callable[[Random], _Fact], ...]] = (
    _addition, _subtraction, _story, _comparison, _counting, _copying, _copying, _copying,
    _position, _neighbour, _opposite, _capital, _spelling,
)  # fmt: skip
"""What is asked about; one listed twice is asked twice as often."""
