"""Stratified sampling of faults: by folder and file, with the kinds of faults balanced."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tools.faults.sites import Fault
from tools.faults.source import Source


def draw(
    faults: Sequence[Fault], sources: Mapping[str, Source], count: int, seed: int
) -> list[Fault]:
    """`count` faults on different lines, or all there are.

    Folders and their files get shares in proportion to their lines with possible faults, at least
    one each if `count` allows. Faults are chosen by hash, not by position, so that most of the
    sample stays the same when the sources change.
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
        # The one that is furthest below its share.
        open_ = [name for name in result if result[name] < sizes[name]]
        result[max(open_, key=lambda name: sizes[name] / (result[name] + 0.5))] += 1
    return result


def _of_file(
    faults: Sequence[Fault], source: Source, wanted: int, kinds: Counter[str]
) -> list[Fault]:
    """Prefers the kind that is rarest in the folder so far; takes each line once."""
    drawn: list[Fault] = []
    lines: set[int] = set()
    left = list(faults)
    while left and len(drawn) < wanted:
        fault = min(left, key=lambda fault: kinds[fault.kind])
        left.remove(fault)
        if fault.line not in lines and source.changes(fault.edit):
            drawn.append(fault)
            lines.add(fault.line)
            kinds[fault.kind] += 1
    return drawn
