from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemotron_deploy.loadtest.sample import Sample, Transcript

PIECES = st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=12)


def record(texts: list[str], *, keep_text: bool = True) -> Sample:
    """The texts, one second apart, the first at one second."""
    transcript = Transcript(keep_text=keep_text)
    for at, text in enumerate(texts, start=1):
        transcript.add(text, float(at))
    return transcript.finish(ended=float(len(texts)))


def spelt_out(texts: list[str]) -> bool:
    """Whether deltas happen to look cumulative: each begins with the one before, and they grow."""
    prefixed = all(later.startswith(earlier) for earlier, later in pairwise(texts))
    return prefixed and len(set(texts)) > 1


@given(PIECES)
def test_cumulative_texts_are_taken_apart(pieces: list[str]) -> None:
    sample = record(list(accumulate(pieces)))
    assert sample.text == "".join(pieces)
    assert list(sample.lengths) == [len(piece) for piece in pieces]
    assert list(sample.arrivals) == [float(at) for at in range(1, len(pieces) + 1)]


@given(PIECES)
def test_deltas_are_joined(pieces: list[str]) -> None:
    assume(not spelt_out(pieces))
    sample = record(pieces)
    assert sample.text == "".join(pieces)
    assert list(sample.lengths) == [len(piece) for piece in pieces]


@given(PIECES)
def test_arrivals_do_not_depend_on_keeping_the_text(pieces: list[str]) -> None:
    for texts in (pieces, list(accumulate(pieces))):
        bare = record(texts, keep_text=False)
        assert bare.arrivals == record(texts).arrivals
        assert bare.text == ""
        assert not bare.lengths


def test_a_cumulative_response_without_new_text_is_no_token() -> None:
    sample = record(["a", "ab", "ab", "abc"])
    assert list(sample.arrivals) == [1.0, 2.0, 4.0]
    assert sample.tokens(None) == 3


def test_a_model_stuck_on_one_token_sends_deltas() -> None:
    assert record(["!", "!", "!"]).text == "!!!"
    assert record(["!", "!", "!", "?"]).text == "!!!?"


def test_empty_responses_are_ignored() -> None:
    sample = record(["", "a", "", "b", ""])
    assert list(sample.arrivals) == [2.0, 4.0]
    assert sample.ttft == 2.0


@given(PIECES)
def test_gaps_add_up_to_the_time_between_first_and_last(pieces: list[str]) -> None:
    sample = record(list(accumulate(pieces)))
    for count in (None, len):
        gaps = list(sample.gaps(count))
        assert sum(gaps) == pytest.approx(sample.arrivals[-1] - sample.ttft)


def test_a_response_of_several_tokens_shares_its_gap() -> None:
    sample = record(["one", " two three", " four"])
    assert list(sample.gaps(lambda text: len(text.split()))) == [0.5, 0.5, 1.0]
    assert sample.tokens(lambda text: len(text.split())) == 4
    assert list(sample.gaps(None)) == [1.0, 1.0]
