from __future__ import annotations

from array import array
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemotron_deploy.loadtest.sample import Transcript, count, gaps
from nemotron_deploy.tests.loadtest.samples import sample

PIECES = st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=12)


def words(text: str) -> int:
    return len(text.split())


def record(texts: list[str], *, keep_text: bool = True, deltas: bool = False) -> Transcript:
    """The texts, one second apart, the first at one second; each waited for as many ms."""
    transcript = Transcript(keep_text=keep_text, deltas=deltas)
    for at, text in enumerate(texts, start=1):
        transcript.add(text, float(at), at / 1000)
    transcript.finish()
    return transcript


def spelt_out(texts: list[str]) -> bool:
    """Whether deltas happen to look cumulative: each begins with the one before, and they grow."""
    prefixed = all(later.startswith(earlier) for earlier, later in pairwise(texts))
    return prefixed and len(set(texts)) > 1


@given(PIECES)
def test_cumulative_texts_are_taken_apart(pieces: list[str]) -> None:
    found = record(list(accumulate(pieces)))
    assert found.text == "".join(pieces)
    assert list(found.lengths) == [len(piece) for piece in pieces]
    assert list(found.arrivals) == [float(at) for at in range(1, len(pieces) + 1)]


@given(PIECES)
def test_deltas_are_joined(pieces: list[str]) -> None:
    assume(not spelt_out(pieces))
    found = record(pieces)
    assert found.text == "".join(pieces)
    assert list(found.lengths) == [len(piece) for piece in pieces]


@given(PIECES)
def test_deltas_by_definition_are_never_taken_for_cumulative(pieces: list[str]) -> None:
    found = record(pieces, deltas=True)
    assert found.text == "".join(pieces)
    assert len(found.arrivals) == len(pieces)


@given(PIECES)
def test_arrivals_and_lengths_do_not_depend_on_keeping_the_text(pieces: list[str]) -> None:
    for texts in (pieces, list(accumulate(pieces))):
        bare, kept = record(texts, keep_text=False), record(texts)
        assert (bare.arrivals, bare.lengths, bare.waits) == (
            kept.arrivals, kept.lengths, kept.waits,
        )  # fmt: skip
        assert bare.text == ""


def test_a_cumulative_response_without_new_text_is_no_token() -> None:
    found = record(["a", "ab", "ab", "abc"])
    assert list(found.arrivals) == [1.0, 2.0, 4.0]
    assert list(found.waits) == [0.001, 0.002, 0.004]


def test_a_model_stuck_on_one_token_sends_deltas() -> None:
    assert record(["!", "!", "!"]).text == "!!!"
    assert record(["!", "!", "!", "?"]).text == "!!!?"


def test_empty_responses_are_ignored() -> None:
    assert list(record(["", "a", "", "b", ""]).arrivals) == [2.0, 4.0]


@given(PIECES)
def test_gaps_add_up_to_the_time_between_first_and_last(pieces: list[str]) -> None:
    found = record(list(accumulate(pieces)))
    each = sample(*found.arrivals, text=found.text, lengths=found.lengths)
    for tokenizer in (None, len):
        total = sum(gaps(each, count(each, tokenizer).of_responses))
        assert total == pytest.approx(each.arrivals[-1] - each.arrivals[0])


def test_a_response_of_several_tokens_shares_its_gap() -> None:
    texts = ["one", " two three", " four"]
    each = sample(1.0, 2.0, 3.0, text="".join(texts), lengths=array("L", map(len, texts)))
    counted = count(each, words)
    assert (counted.total, counted.counting) == (4, "tokenizer")
    assert list(gaps(each, counted.of_responses)) == [0.5, 0.5, 1.0]
    bare = count(each, None)
    assert (bare.total, bare.counting) == (3, "responses")
    assert list(gaps(each, bare.of_responses)) == [1.0, 1.0]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 60))
def test_the_count_of_a_server_is_shared_out_and_never_changed(
    lengths: list[int], more: int
) -> None:
    responses = len(lengths)
    each = sample(
        *map(float, range(1, responses + 1)),
        lengths=array("L", lengths),
        server_tokens=responses + more,
    )
    counted = count(each, None)
    assert (counted.total, counted.counting) == (responses + more, "server")
    assert min(counted.of_responses) >= 1
    end = 1 if more == 1 else 0  # the end token has no text
    assert sum(counted.of_responses) == counted.total - end


def test_a_server_may_count_tokens_that_have_no_response() -> None:
    each = sample(1.0, 2.0, server_tokens=3, text="a b", lengths=array("L", [1, 2]))
    assert count(each, words).total == 3
    assert count(each, words).counting == "server"
