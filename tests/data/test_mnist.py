"""The bundled digits."""

import shutil

import numpy as np
import pytest

from trainkit.data import DataError, data_dir, mnist
from trainkit.data.mnist import MEAN, STD


def test_shapes_labels_and_pixel_statistics():
    train, test = mnist()
    for part, n in ((train, 60_000), (test, 10_000)):
        assert part["image"].shape == (n, 28, 28, 1)
        assert part["image"].dtype == np.uint8
        assert part["label"].shape == (n,)
        assert part["label"].dtype == np.int32
        assert set(np.unique(part["label"])) == set(range(10))
    assert list(train["label"][:5]) == [5, 0, 4, 1, 9]  # the first digits, as everybody knows them
    pixels = train["image"] / np.float32(255)
    # The constants are the published ones, to four digits.
    assert abs(pixels.mean(dtype=np.float64) - MEAN) < 5e-5
    assert abs(pixels.std(dtype=np.float64) - STD) < 5e-5


def test_one_damaged_file_is_named(tmp_path):
    shutil.copytree(data_dir() / "mnist", tmp_path / "mnist")
    labels = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    shutil.copy(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", labels)
    with pytest.raises(DataError, match=r"t10k-labels.*has MD5 a25bea73.*expected 27ae3e4e"):
        mnist(tmp_path)
