"""The factors that matrix rules give an update for the shape of its kernel, [in, out]."""

from __future__ import annotations

from collections.abc import Callable

FACTORS: dict[str, Callable[[float, float], float]] = {
    "1": lambda i, o: 1.0,
    "sqrt(max(1, out/in))": lambda i, o: max(1.0, o / i) ** 0.5,  # Jordan 2024
    "sqrt(max(1, in/out))": lambda i, o: max(1.0, i / o) ** 0.5,
    "max(1, out/in)": lambda i, o: max(1.0, o / i),
    "max(1, in/out)": lambda i, o: max(1.0, i / o),
    "sqrt(out/in)": lambda i, o: (o / i) ** 0.5,  # Bernstein 2024, Pethick 2025
    "sqrt(in/out)": lambda i, o: (i / o) ** 0.5,
    "out/in": lambda i, o: o / i,
    "in/out": lambda i, o: i / o,
    "sqrt(max(in, out))": lambda i, o: max(i, o) ** 0.5,  # Liu 2025, times .2
    "sqrt(min(in, out))": lambda i, o: min(i, o) ** 0.5,
    "sqrt(in*out)": lambda i, o: (i * o) ** 0.5,
    "sqrt(in)": lambda i, o: i**0.5,
    "sqrt(out)": lambda i, o: o**0.5,
    "1/sqrt(in)": lambda i, o: i**-0.5,
    "1/sqrt(out)": lambda i, o: o**-0.5,
}  # fmt: skip


def swapped(name: str) -> str:
    """The same factor with in and out exchanged."""
    return name.replace("in", "IN").replace("out", "in").replace("IN", "out")
