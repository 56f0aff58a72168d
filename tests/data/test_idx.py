"""The IDX format, written here by hand from its description."""

import gzip
import struct

import numpy as np
import pytest

from trainkit.data import DataError, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array, code):
    head = struct.pack(">HBB", 0, code, array.ndim)
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 0, 4), (2, 3, 2, 2)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) * 3 - 5).astype(dtype)
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(idx_bytes(array, CODES[dtype])))
    read = read_idx(file)
    assert read.dtype == np.dtype(dtype)
    assert read.shape == shape
    np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(6, dtype="u1").reshape(2, 3), 0x08)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG....", "begins with 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\0", "not an IDX file"),
        (GOOD[:9], "ends inside its header: 9 of 12"),
        (GOOD[:-1], r"17 bytes.*\(2, 3\), uint8.*needs 18"),
        (GOOD + b"x", r"19 bytes.*needs 18"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused(tmp_path, content, message):
    file = tmp_path / "a.idx"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(file)
