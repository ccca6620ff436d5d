"""Pieces of text: whole characters, nothing lost, nothing of a stop word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.text import StopWords
from nemotron_deploy.runtime.vocabulary import CheckpointVocabulary


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.from_file(str(catalog.TINY / "tokenizer.json"))


@pytest.fixture(scope="session")
def vocabulary():
    return CheckpointVocabulary(catalog.TINY)


@given(text=st.text(max_size=40))
def test_pieces_join_to_the_decoded_text(tokenizer, vocabulary, text):
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    detokenizer = vocabulary.detokenizer()
    assert "".join(map(detokenizer.push, tokens)) == tokenizer.decode(tokens)


@given(tokens=st.lists(st.integers(0, 511), max_size=30))
def test_any_tokens_give_a_beginning_of_the_decoded_text(tokenizer, vocabulary, tokens):
    """Random tokens cut characters: what is incomplete at the end is left out, never halved."""
    detokenizer = vocabulary.detokenizer()
    joined = "".join(map(detokenizer.push, tokens))
    assert tokenizer.decode(tokens).startswith(joined)


def test_a_character_of_several_tokens_comes_whole(tokenizer, vocabulary):
    detokenizer = vocabulary.detokenizer()
    tokens = tokenizer.encode("日", add_special_tokens=False).ids
    assert len(tokens) > 1
    assert [detokenizer.push(token) for token in tokens] == [""] * (len(tokens) - 1) + ["日"]


_SHORT = st.text("ab", min_size=1, max_size=4)


@given(pieces=st.lists(st.text("abc", max_size=3), max_size=12), words=st.lists(_SHORT, max_size=3))
def test_text_ends_before_the_first_stop_word(pieces, words):
    stops, sent, found = StopWords(words), "", None
    for piece in pieces:
        text, found = stops.push(piece)
        sent += text
        if found:
            break
    else:
        sent += stops.flush()
    whole = "".join(pieces)
    if found is None:
        assert sent == whole
        assert not any(word in whole for word in words)
    else:
        assert found in words
        assert whole.startswith(sent + found)
        assert not any(word in sent for word in words)


def test_only_what_may_begin_a_stop_word_is_held_back():
    stops = StopWords(["\n\nUser"])
    assert stops.push("Paris.\n") == ("Paris.", None)
    assert stops.push("\nLyon") == ("\n\nLyon", None)
    assert stops.push("\n\nUser: more") == ("", "\n\nUser")
