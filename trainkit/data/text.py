"""A text as a corpus of characters: vocabulary, encoding, windows."""

from __future__ import annotations

import dataclasses
import itertools
import os

import numpy as np

from trainkit._core.validation import integer, number
from trainkit.data.files import data_dir, read_file

SHAKESPEARE_SHA256 = "e1d2e18ac43deb31b3e5d9717ab4783be810a9c5cd0e7cb2c83797d39757bac8"


@dataclasses.dataclass(frozen=True)
class CharCorpus:
    """A text as integers, one per character.

    Attributes:
      tokens: (n,) int32, the text.
      vocabulary: the distinct characters in sorted order; token t is `vocabulary[t]`.

    >>> corpus = CharCorpus.from_text("to be or not to be")
    >>> corpus.vocabulary
    ' benort'
    >>> corpus.encode("bet")
    array([1, 2, 6], dtype=int32)
    >>> corpus.decode(corpus.tokens[:5])
    'to be'
    """

    tokens: np.ndarray
    vocabulary: str

    @classmethod
    def from_text(cls, text: str, vocabulary: str | None = None) -> CharCorpus:
        """The corpus of a text; the default vocabulary is the characters of the text."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {text!r:.60}; decode bytes first.")
        if vocabulary is not None and not isinstance(vocabulary, str):
            raise TypeError(f"vocabulary must be a string of characters, not {vocabulary!r:.60}.")
        if not text:
            raise ValueError("The text is empty; a corpus needs at least one character.")
        vocabulary = "".join(sorted(set(text))) if vocabulary is None else vocabulary
        if len(set(vocabulary)) != len(vocabulary):
            raise ValueError(f"The vocabulary {vocabulary!r} names a character twice.")
        return cls(_encode(text, vocabulary), vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """int32 tokens [len(text)]; ValueError for a character outside the vocabulary."""
        return _encode(text, self.vocabulary)

    def decode(self, tokens) -> str:
        """The text for a sequence of tokens."""
        return "".join(self.vocabulary[int(token)] for token in np.asarray(tokens).ravel())

    def split(self, validation: float = 0.1, test: float = 0.0) -> tuple[CharCorpus, ...]:
        """`(train, validation, test)` as contiguous, disjoint parts of the text."""
        for name, share in (("validation", validation), ("test", test)):
            number(name, share, least=0, below=1, hint="it is a fraction of the text")
        if validation + test >= 1:
            raise ValueError(f"validation={validation} and test={test} leave nothing to train on.")
        n = len(self.tokens)
        held = [round(n * share) for share in (validation, test)]
        bounds = [0, n - sum(held), n - held[1], n]
        return tuple(
            CharCorpus(self.tokens[a:b], self.vocabulary) for a, b in itertools.pairwise(bounds)
        )

    def windows(self, length: int, stride: int = 1) -> Windows:
        """Every window of `length` inputs and targets, a data set for `Sampler`."""
        integer("length", length)
        integer("stride", stride)
        if len(self.tokens) < length + 1:
            raise ValueError(
                f"A window of length {length} needs {length + 1} characters (targets are shifted "
                f"by one), but this text has {len(self.tokens)}: use a smaller length."
            )
        return Windows(self.tokens, length, stride)


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of a token array; indexing gathers a batch of them.

    `windows[indices]` is `{"inputs": (b, length), "targets": (b, length)}`, int32; the targets are
    shifted by one character.
    """

    tokens: np.ndarray
    length: int
    stride: int = 1

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def __getitem__(self, indices) -> dict[str, np.ndarray]:
        starts = np.atleast_1d(indices)[:, None] * self.stride
        window = self.tokens[starts + np.arange(self.length + 1)]
        return {"inputs": window[:, :-1], "targets": window[:, 1:]}


def shakespeare(path: str | os.PathLike | None = None) -> CharCorpus:
    """The bundled Shakespeare text: 5,057,323 characters, 84 of them distinct.

    Raises:
      DataError: the file is missing or has another checksum.
    """
    file = data_dir(path) / "shakespeare" / "shakespeare.txt.gz"
    return CharCorpus.from_text(read_file(file, sha256=SHAKESPEARE_SHA256).decode("ascii"))


def _encode(text: str, vocabulary: str) -> np.ndarray:
    # By code points: a dictionary look-up per character takes seconds for five million.
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    known = np.frombuffer(vocabulary.encode("utf-32-le"), "<u4")
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
    tokens = order[places]
    wrong = known[tokens] != codes
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"The character {text[at]!r} at position {at} is not in the vocabulary "
            f"{vocabulary!r}; build the vocabulary from a text that has it, or remove it."
        )
    return tokens.astype(np.int32)
