"""The generated texts follow their rules."""

import numpy as np

from experiments.progressive_lm.tasks import TASKS


def lines(task):
    corpus = TASKS[task](None)
    return corpus, corpus.decode(corpus.tokens[:32_000]).split("\n")[:900]


def test_every_line_of_topics_has_its_own_four_letters():
    corpus, found = lines("topics")
    assert len(corpus.vocabulary) == 27
    assert {len(line) for line in found} == {31}
    letters = [frozenset(line) for line in found]
    assert max(map(len, letters)) == 4
    assert len(set(letters)) > 800  # of 14,950 sets
    # All letters alike: a line of its own says nothing of the next.
    counts = np.unique(list("".join(found)), return_counts=True)[1]
    assert counts.min() > 0.6 * counts.mean()


def test_sums_are_right_and_their_digits_chance():
    _, found = lines("sums")
    for a, plus, b, equals, c in found:
        assert plus + equals == "+="
        assert (int(a) + int(b)) % 10 == int(c)
    assert len({line[:3] for line in found}) == 100


def test_the_texts_are_the_same_every_time():
    for task in ("topics", "sums"):
        np.testing.assert_array_equal(TASKS[task](None).tokens, TASKS[task](None).tokens)
