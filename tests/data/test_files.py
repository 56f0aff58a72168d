"""Finding the data and refusing files that are not what they should be."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest

import trainkit
from trainkit.data import DataError, data_dir, read_file
from trainkit.data.mnist import FILES
from trainkit.data.text import SHAKESPEARE_SHA256

WORDS = b"to be, or not to be"


def test_the_data_that_the_package_brings_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("TRAINKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert data_dir() == Path(trainkit.data.__file__).parent / "bundled"


def test_an_argument_wins_over_the_environment(tmp_path, monkeypatch):
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    monkeypatch.setenv("TRAINKIT_DATA", str(other))
    assert data_dir() == other
    assert data_dir(mine) == mine


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINKIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere.*\$TRAINKIT_DATA"):
        data_dir()


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_checksums_are_of_the_decompressed_bytes(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(gzip.compress(WORDS) if name.endswith("gz") else WORDS)
    md5, sha = hashlib.md5(WORDS).hexdigest(), hashlib.sha256(WORDS).hexdigest()
    assert read_file(file, md5=md5, sha256=sha) == WORDS


def test_another_checksum_names_file_expected_and_found(tmp_path):
    file = tmp_path / "text.gz"
    file.write_bytes(gzip.compress(WORDS))
    expected, found = "0" * 32, hashlib.md5(WORDS).hexdigest()
    with pytest.raises(DataError) as error:
        read_file(file, md5=expected)
    for part in (str(file), expected, found, "TRAINKIT_DATA"):
        assert part in str(error.value)


def test_a_missing_file_is_named_with_its_mend(tmp_path):
    with pytest.raises(DataError, match=r"missing.*gone\.gz.*MD5 abc.*TRAINKIT_DATA"):
        read_file(tmp_path / "gone.gz", md5="abc")


@pytest.mark.parametrize("damage", ["not gzip", "cut short", "flipped"])
def test_damaged_compression_is_a_data_error(tmp_path, damage):
    whole = gzip.compress(WORDS)
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum that gzip carries
    content = {"not gzip": b"<html>", "cut short": whole[:-9], "flipped": bytes(flipped)}[damage]
    file = tmp_path / "text.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.gz cannot be decompressed") as error:
        read_file(file, md5="f" * 32)
    assert "f" * 32 in str(error.value)
    assert hashlib.md5(content).hexdigest() in str(error.value)


def test_it_can_be_caught_as_either_kind_of_error(tmp_path):
    for kind in (OSError, ValueError):
        with pytest.raises(kind):
            read_file(tmp_path / "gone")


def test_the_checksums_are_those_of_the_readme():
    text = (data_dir() / "README.md").read_text()
    stated = dict(re.findall(r"(train-images|train-labels|t10k-images|t10k-labels) (\w{32})", text))
    assert {name.rsplit("-", 2)[0]: md5 for name, md5 in FILES.items()} == stated
    assert SHAKESPEARE_SHA256 in text
