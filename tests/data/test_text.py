"""Characters to integers and back."""

import collections

import numpy as np
import pytest

from trainkit.data import CharCorpus, Sampler, shakespeare

TEXT = "Zwölf Boxkämpfer jagen Eva 🙂 quer über den Sylter Deich"


def test_encoding_goes_there_and_back_on_any_text():
    corpus = CharCorpus.from_text(TEXT)
    assert corpus.vocabulary == "".join(sorted(set(TEXT)))
    assert corpus.tokens.dtype == np.int32
    assert [corpus.vocabulary[t] for t in corpus.tokens] == list(TEXT)
    assert corpus.decode(corpus.encode("Eva 🙂")) == "Eva 🙂"
    assert len(corpus.encode("")) == 0


def test_a_given_vocabulary_keeps_its_order():
    corpus = CharCorpus.from_text("abba", vocabulary="zba")
    assert list(corpus.tokens) == [2, 1, 1, 2]


def test_unknown_characters_and_bad_vocabularies_are_named():
    with pytest.raises(ValueError, match=r"'!' at position 2"):
        CharCorpus.from_text("hello").encode("he!")
    with pytest.raises(ValueError, match="twice"):
        CharCorpus.from_text("ab", vocabulary="aba")
    with pytest.raises(ValueError, match="empty"):
        CharCorpus.from_text("")


def test_windows_hold_the_next_character_as_target():
    corpus = CharCorpus.from_text("abcdefgh")
    windows = corpus.windows(3, stride=2)
    assert len(windows) == 3  # abc|d, cde|f, efg|h
    batch = windows[np.array([0, 2])]
    assert [corpus.decode(row) for row in batch["inputs"]] == ["abc", "efg"]
    assert [corpus.decode(row) for row in batch["targets"]] == ["bcd", "fgh"]


def test_the_last_window_reaches_the_last_character():
    for n in range(4, 9):
        for stride in (1, 2, 3):
            windows = CharCorpus.from_text("abcdefgh"[:n]).windows(3, stride)
            starts = [s for s in range(0, n, stride) if s + 4 <= n]
            assert len(windows) == len(starts)
            assert windows[np.arange(len(windows))]["targets"].shape == (len(starts), 3)


def test_a_sampler_draws_random_windows_once_an_epoch():
    corpus = CharCorpus.from_text("abcdefghij")
    sampler = Sampler(corpus.windows(2), batch_size=4, seed=3)
    assert sampler.size == 8
    drawn = [corpus.decode(row) for _ in range(2) for row in next(sampler)["inputs"]]
    wanted = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"]
    assert collections.Counter(drawn) == collections.Counter(wanted)
    assert drawn != wanted


@pytest.mark.parametrize("length", [0, 8])
def test_windows_that_do_not_fit_are_refused(length):
    with pytest.raises(ValueError, match=f"length {length}|length must be .*not {length}"):
        CharCorpus.from_text("abcdefgh").windows(length)


def test_splits_are_contiguous_and_disjoint():
    corpus = CharCorpus.from_text("abcdefghij")
    parts = corpus.split(validation=0.2, test=0.1)
    assert [part.decode(part.tokens) for part in parts] == ["abcdefg", "hi", "j"]
    assert all(part.vocabulary == corpus.vocabulary for part in parts)
    with pytest.raises(ValueError, match="nothing to train on"):
        corpus.split(validation=0.6, test=0.4)


def test_shakespeare():
    corpus = shakespeare()
    assert len(corpus.tokens) == 5_057_323
    assert len(corpus.vocabulary) == 84
    assert "To be, or not to be" in corpus.decode(corpus.tokens)
