"""A stratified draw: every folder and file its share, the kinds of faults in turn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tools.faults.sites import Fault
from tools.faults.source import Source


def draw(
    faults: Sequence[Fault], sources: Mapping[str, Source], count: int, seed: int
) -> list[Fault]:
    """`count` faults, or as many as there are on lines of their own.

    Folders, and the files in them, get shares in proportion to the lines that can hold a fault,
    and one at least where there are enough for all. Which ones is a matter of hashes, not of
    positions: where the sources change, most of the draw stays.
    """
    files: dict[str, list[Fault]] = defaultdict(list)
    for fault in sorted(faults, key=lambda fault: fault.key(seed)):
        files[fault.file].append(fault)
    sizes = {file: len({fault.line for fault in each}) for file, each in files.items()}
    folders: Counter[str] = Counter()
    for file, each in files.items():
        folders[each[0].folder] += sizes[file]
    drawn: list[Fault] = []
    for folder, share in shares(folders, count).items():
        inside = {file: n for file, n in sizes.items() if files[file][0].folder == folder}
        kinds: Counter[str] = Counter()
        for file, wanted in shares(inside, share).items():
            drawn += _of_file(files[file], sources[file], wanted, kinds)
    return sorted(drawn, key=lambda fault: (fault.file, fault.line))


def shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` split in proportion to `sizes`, none above its size."""
    count = min(count, sum(sizes.values()))
    least = 1 if count >= len(sizes) else 0
    result = dict.fromkeys(sorted(sizes), least)
    for _ in range(count - sum(result.values())):
        # The one that lacks most of its share.
        open_ = [name for name in result if result[name] < sizes[name]]
        result[max(open_, key=lambda name: sizes[name] / (result[name] + 0.5))] += 1
    return result


def _of_file(
    faults: Sequence[Fault], source: Source, wanted: int, kinds: Counter[str]
) -> list[Fault]:
    """The rarest kind of the folder so far comes first; each line is taken once."""
    drawn: list[Fault] = []
    lines: set[int] = set()
    left = list(faults)
    while left and len(drawn) < wanted:
        fault = min(left, key=lambda fault: kinds[fault.kind])  # the first of equals
        left.remove(fault)
        if fault.line not in lines and source.changes(fault.edit):
            drawn.append(fault)
            lines.add(fault.line)
            kinds[fault.kind] += 1
    return drawn
