import numpy as np
import pytest

from trainkit.data import CharCorpus
from trainkit.data.staged import coarser, staged
from trainkit.progressive import Data


def test_a_larger_subset_has_all_of_a_smaller():
    make = staged({"x": np.arange(40)}, batch_size=4, seed=3)
    few, more = (set(make(Data(subset=s)).data["x"].tolist()) for s in (0.25, 30))
    assert len(few) == 10
    assert len(more) == 30
    assert few < more


def test_length_and_batch_of_a_corpus():
    make = staged(CharCorpus.from_text("abcdefgh" * 20), batch_size=4)
    batch = next(make(Data(sequence_length=6, batch_size=3)))
    assert batch["inputs"].shape == (3, 6)
    assert make(Data(sequence_length=6, subset=0.5)).size < make(Data(sequence_length=6)).size


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_resolution_is_the_mean_over_blocks(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(dtype)
    expected = [
        [
            [
                round(float(image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].astype(float).mean()))
                for j in (0, 1)
            ]
            for i in (0, 1)
        ]
        for image in images
    ]
    assert coarser(images, 2)[..., 0].tolist() == expected
    batch = next(staged({"image": images}, 2, shuffle=False)(Data(resolution=2)))
    assert batch["image"].dtype == dtype


@pytest.mark.parametrize(
    ("data", "words"),
    [(Data(subset=50), "50 of 40"), (Data(resolution=3), "divisor of 4")],
)
def test_what_the_data_do_not_have(data, words):
    make = staged({"image": np.zeros((40, 4, 4, 1))}, batch_size=4)
    with pytest.raises(ValueError, match=words):
        make(data)


def test_a_corpus_needs_a_length():
    with pytest.raises(ValueError, match="sequence_length"):
        staged(CharCorpus.from_text("abc"), 1)(Data())


@pytest.mark.parametrize("amount", [Data(resolution=2), Data(sequence_length=4)])
def test_a_size_that_arrays_do_not_have_is_refused(amount):
    make = staged({"x": np.ones((8, 3), np.float32)}, batch_size=2)
    with pytest.raises(ValueError, match=r"no images|needs a CharCorpus"):
        make(amount)
