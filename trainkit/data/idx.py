"""The IDX file format of MNIST and similar data sets."""

from __future__ import annotations

import os
import struct

import numpy as np

from trainkit.data.files import DataError, read_file

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike, *, md5: str | None = None) -> np.ndarray:
    """The array in an IDX file, decompressed if its name ends in `.gz`.

    The format: two zero bytes, a byte for the dtype, a byte for the number of axes, each size as
    a big-endian uint32, then the values in C order, big-endian.

    Args:
      path: the file.
      md5: expected MD5 of the decompressed file, or `None` for no check.

    Returns:
      An array in native byte order, with the shape and dtype in the file's header.

    Raises:
      DataError: the file is missing, has another checksum, or is not a whole IDX file.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "three.idx"
    >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> read_idx(file)
    array([7, 8, 9], dtype=uint8)
    """
    content = read_file(path, md5=md5)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES or not content[3]:
        raise DataError(
            f"{path} is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00, a dtype in {', '.join(f'{d:02x}' for d in _DTYPES)}, and the "
            "number of axes."
        )
    ndim = content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(f"{path} ends inside its header: {len(content)} of {start} bytes.")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    dtype = np.dtype(_DTYPES[content[2]])
    expected = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path} has {len(content)} bytes, but its header (shape {shape}, {dtype.name}) "
            f"needs {expected}: the file is damaged; replace it with a good copy."
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
