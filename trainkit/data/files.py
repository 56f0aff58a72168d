"""The location of data files, and reading them with verified checksums."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

VARIABLE = "TRAINKIT_DATA"
BUNDLED = Path(__file__).parent / "bundled"


class DataError(OSError, ValueError):
    """A data file is missing, incomplete or not the expected one."""


def data_dir(path: str | os.PathLike | None = None) -> Path:
    """The data folder: `path`, else `$TRAINKIT_DATA`, else the bundled one of the package.

    Raises:
      DataError: there is no such folder.
    """
    if path is not None:
        return _existing(Path(path), "the requested data folder")
    if os.environ.get(VARIABLE):
        return _existing(Path(os.environ[VARIABLE]), f"the data folder in ${VARIABLE}")
    return _existing(BUNDLED, "the data folder of the installed package")


def _existing(path: Path, what: str) -> Path:
    path = path.expanduser()
    if not path.is_dir():
        raise DataError(f"{path}, {what}, is not a folder. Give the folder that contains mnist/.")
    return path


def read_file(
    path: str | os.PathLike, *, md5: str | None = None, sha256: str | None = None
) -> bytes:
    """The bytes of a file, decompressed if its name ends in `.gz`, with verified checksums.

    Args:
      path: the file.
      md5: expected MD5 of the decompressed bytes (hexadecimal), or `None` for no check.
      sha256: expected SHA-256 of the decompressed bytes, or `None` for no check.

    Raises:
      DataError: the file is missing, cannot be decompressed, or has another checksum.
    """
    path = Path(path)
    expected = ", ".join(
        f"{name} {value}" for name, value in (("MD5", md5), ("SHA-256", sha256)) if value
    )
    hint = (
        f"Replace it with a good copy (in a clone of the project: git checkout -- {path.name} "
        f"in {path.parent}), or set {VARIABLE} to a folder that has one."
    )
    if not path.is_file():
        expecting = f" (expected {expected} once decompressed)" if expected else ""
        raise DataError(f"Data file missing: {path}{expecting}. {hint}")
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
            raise DataError(
                f"Data file corrupt: {path} cannot be decompressed ({error}). Expected "
                f"{expected or 'gzip data'} after decompression; found {len(raw)} compressed "
                f"bytes with MD5 {found}. {hint}"
            ) from error
    else:
        content = raw
    for name, value, make in (("MD5", md5, _md5), ("SHA-256", sha256, hashlib.sha256)):
        if value is None:
            continue
        found = make(content).hexdigest()
        if found != value.lower():
            raise DataError(
                f"Data file corrupt: {path} has {name} {found}, expected {value} "
                f"(both of the {len(content)} decompressed bytes). {hint}"
            )
    return content


def _md5(content: bytes):
    return hashlib.md5(content, usedforsecurity=False)
