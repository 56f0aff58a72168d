"""Data in memory: resumable samplers, file readers, splits, and batch transformations.

Input: arrays, or files of arrays. Output: an endless iterator of batches, whose `position` can be
saved and restored. Read `sampler` first.
"""

from trainkit.data.arrays import normalise, one_hot, pad_batch, pad_image, random_shift
from trainkit.data.files import DataError, data_dir, read_file
from trainkit.data.idx import read_idx
from trainkit.data.mnist import mnist
from trainkit.data.prefetch import Prefetch
from trainkit.data.sampler import Position, Sampler
from trainkit.data.split import Splits, split
from trainkit.data.staged import staged
from trainkit.data.text import CharCorpus, shakespeare

__all__ = [
    "CharCorpus",
    "DataError",
    "Position",
    "Prefetch",
    "Sampler",
    "Splits",
    "data_dir",
    "mnist",
    "normalise",
    "one_hot",
    "pad_batch",
    "pad_image",
    "random_shift",
    "read_file",
    "read_idx",
    "shakespeare",
    "split",
    "staged",
]
