"""What devices send each other in a compiled program, read from its text."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_KIND = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:body|calls|to_apply|async_computation|true_computation|"
                     r"false_computation)=%?([\w.\-]+)")  # fmt: skip
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in one call of a program.

    Attributes:
      kind: its name in XLA.
      calls: how often it runs; in a loop of unknown length once.
      bytes: of the arrays, on one device: what is reduced, or what comes out of a gather.
      sent: bytes that each device sends in a ring: 2(n−1)/n of what is reduced, (n−1)/n of what is
        gathered, scattered or exchanged.
    """

    kind: str
    calls: int
    bytes: float
    sent: float


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of a program, from `compiled.as_text()`.

    Args:
      text: XLA's optimized program.
      devices: of the whole program, for groups that are not written out.

    >>> text = "ENTRY %main {\\n %r = f32[10]{0} all-reduce(%x), replica_groups={{0,1}}\\n}"
    >>> collectives(text, 2)
    [Collective(kind='all-reduce', calls=1, bytes=40.0, sent=40.0)]
    """
    found: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0])
    bodies, entry = _computations(text)
    for line, times in _executed(bodies, entry, 1):
        if match := _KIND.search(line):
            shapes, kind, started = match.groups()
            size = _size(shapes, kind, bool(started))
            n = _group(line, devices)
            factor = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(
                kind, (n - 1) / n
            )
            if kind == "reduce-scatter":
                size *= n  # its text has the result, a share of what is reduced
            total = found[kind]
            total[0] += times
            total[1] += times * size
            total[2] += times * size * factor
    return [
        Collective(kind, int(found[kind][0]), *found[kind][1:]) for kind in KINDS if kind in found
    ]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines of each computation, and the name of the first to run."""
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if match := _HEAD.match(line):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _executed(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Each line with how often it runs; of a conditional, every branch."""
    for line in bodies.get(name, ()):
        yield line, times
        if _KIND.search(line):
            continue  # what it applies is a sum of two numbers
        trips = _TRIPS.search(line) if " while(" in line else None
        inner = _CALLED.findall(line)
        if branches := _BRANCHES.search(line):
            inner += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
        for called in inner:
            yield from _executed(bodies, called, times * (int(trips[1]) if trips else 1))


def _size(shapes: str, kind: str, started: bool) -> float:
    """Bytes of the results; what was started returns its operands too, the results last."""
    sizes = [
        math.prod(map(int, dims.split(","))) * _width(dtype) if dims else _width(dtype)
        for dtype, dims in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shapes))
    ]
    if started and kind == "collective-permute":
        return sizes[1]
    if started and kind in ("all-gather", "reduce-scatter"):
        return sum(sizes[len(sizes) // 2 :])
    return sum(sizes)


def _width(dtype: str) -> float:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.match(r"[a-z]+(\d+)", dtype)
    return int(bits[1]) / 8 if bits else 0.0


def _group(line: str, devices: int) -> int:
    """How many devices take part with each other."""
    if written := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return max(len(written[1].split(",")), 1)
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counted[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return devices
