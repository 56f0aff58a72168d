"""The MNIST digits (LeCun, Cortes, Burges), which the package brings."""

from __future__ import annotations

import os

import numpy as np

from trainkit.data.files import data_dir
from trainkit.data.idx import read_idx

# MD5 of the decompressed original files, as in bundled/README.md.
FILES = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
# Mean and standard deviation of the training pixels, on the scale 0 to 1.
MEAN, STD = 0.1307, 0.3081


def mnist(
    path: str | os.PathLike | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`(train, test)`, each `{"image": uint8 (n, 28, 28, 1), "label": int32 (n,)}`.

    There are 60,000 training and 10,000 test images. Checksums are verified on reading.

    Args:
      path: the folder that contains `mnist/`; default: `data_dir()`.

    Raises:
      DataError: a file is missing or not the original; the message says how to fix it.
    """
    folder = data_dir(path) / "mnist"

    def part(prefix: str) -> dict[str, np.ndarray]:
        images, labels = (
            read_idx(folder / name, md5=md5) for name, md5 in FILES.items() if prefix in name
        )
        return {"image": images[..., None], "label": labels.astype(np.int32)}

    return part("train"), part("t10k")
