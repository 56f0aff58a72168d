"""The report on the trials: a table by folder, and each surviving fault."""

from __future__ import annotations

import json
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tools.faults.sites import Fault
from tools.faults.source import Source, flat
from tools.faults.trials import Record

Look = tuple[str, str, str]  # file, before, after


def equivalents(path: pathlib.Path) -> dict[Look, str]:
    """Fault -> reason, for faults that no test can detect.

    Raises:
      ValueError: an entry has no reason.
    """
    entries = json.loads(path.read_text()) if path.exists() else []
    for entry in entries:
        if not entry.get("reason"):
            raise ValueError(f"{path.name}: {entry['file']}: {entry['before']!r} has no reason")
    return {(e["file"], flat(e["before"]), flat(e["after"])): e["reason"] for e in entries}


def report(
    faults: Sequence[Fault],
    records: Mapping[str, Record],
    reasons: Mapping[Look, str],
    sources: Mapping[str, Source],
) -> str:
    """The text of the report."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    survivors, notes = [], []
    for fault in faults:
        record = records.get(fault.key())
        reason = reasons.get((fault.file, fault.before, fault.after))
        if record is None:
            state = "to do"
        elif record["killed"]:
            state = "killed"
            if reason:
                notes.append(f"Said to be equivalent, but {record['by']} sees it: {fault}")
        elif reason:
            state = "equivalent"
        else:
            state = "survived"
            ran = f"{record['ran']} tests pass" if record["of"] else record["message"]
            survivors.append(f"{fault}\n    ({ran})")
        for folder in (fault.folder, "all"):
            counts[folder]["planted"] += 1
            counts[folder][state] += 1
    notes += [
        f"Equivalent, but no longer there: {file}: {before}"
        for file, before, _ in reasons
        if file in sources and before not in flat(sources[file].data.decode())
    ]
    parts = [_table(counts)]
    if survivors:
        parts.append("\n".join(["Survivors", *survivors]))
    return "\n\n".join([*parts, *notes])


def _table(counts: Mapping[str, Mapping[str, int]]) -> str:
    columns = ("planted", "killed", "survived", "equivalent", "to do")
    width = max(len(folder) for folder in counts) + 2
    lines = ["".ljust(width) + "".join(c.rjust(12) for c in (*columns, "killed of"))]
    for folder, row in counts.items():
        decided = row.get("killed", 0) + row.get("survived", 0)
        rate = f"{100 * row.get('killed', 0) / decided:.1f} %" if decided else "-"
        cells = [*(str(row.get(c, 0)) for c in columns), rate]
        lines.append(folder.ljust(width) + "".join(cell.rjust(12) for cell in cells))
    # "all" was created with the first folder; it goes last.
    lines.append(lines.pop(1 + list(counts).index("all")))
    return "\n".join(lines)
