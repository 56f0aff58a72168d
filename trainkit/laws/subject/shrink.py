"""Shrinking of a failing trajectory: fewer steps, one leaf, one element, round numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainkit.laws.law import Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch
from trainkit.laws.reproducers.programs import one_number
from trainkit.laws.subject import Subject

BUDGET = 8.0  # seconds of processor time that one check may spend on shrinking


Judge = Callable[[Case], "Mismatch | None"]


def shrink(subject: Subject, case: Case, judge: Judge) -> tuple[Case, Mismatch | None]:
    """A smaller case on which `judge` still finds a mismatch, within the remaining time.

    Returns `(case, None)` if the mismatch occurs only in the compiled run.
    """
    spent = subject.memo.setdefault("shrinking", [0.0])
    began = time.process_time()

    def try_(candidate: Case) -> Mismatch | None:
        try:
            return judge(candidate)
        except Exception:  # a candidate that the rule cannot run is just not smaller
            return None

    best = try_(case)
    if best is not None:
        progress = True
        while progress:
            progress = False
            for candidate in _smaller(case, best):
                if spent[0] + time.process_time() - began > BUDGET:
                    progress = False
                    break
                found = try_(candidate)
                if found is not None:
                    case, best, progress = candidate, found, True
                    break
    spent[0] += time.process_time() - began
    return case, best


def _smaller(case: Case, at: Mismatch) -> Iterator[Case]:
    steps = len(case.grads)
    if at.step + 1 < steps:
        yield case._replace(params=case.params[: at.step + 1], grads=case.grads[: at.step + 1])
    if len(case.shapes) > 1:
        ends = cases.offsets(case.shapes)
        leaf = int(np.searchsorted(ends, at.at, side="right")) - 1
        part = slice(ends[leaf], ends[leaf + 1])
        yield Case((case.shapes[leaf],), case.params[:, part], case.grads[:, part], case.follow)
        for gone in range(len(case.shapes)):
            keep = np.ones(ends[-1], bool)
            keep[ends[gone] : ends[gone + 1]] = False
            shapes = case.shapes[:gone] + case.shapes[gone + 1 :]
            yield Case(shapes, case.params[:, keep], case.grads[:, keep], case.follow)
    elif case.shapes != ((1,),):
        one = slice(at.at, at.at + 1)
        yield Case(((1,),), case.params[:, one], case.grads[:, one], case.follow)
        if len(case.shapes[0]) > 1:
            flat = ((case.params.shape[1],),)
            yield case._replace(shapes=flat)
    if steps > 1:
        for last in (1, 2, steps // 2, steps - 1):
            if last < steps:
                yield case._replace(params=case.params[-last:], grads=case.grads[-last:])
    if case.follow:
        yield case._replace(follow=0.0)
    if np.any(case.params != case.params[:1]):
        yield case._replace(params=np.broadcast_to(case.params[:1], case.params.shape))
    for name in ("params", "grads"):
        x = getattr(case, name)
        for simpler in (0 * x, np.broadcast_to(x[:1], x.shape), np.sign(x), _digits(x, 1),
                        _digits(x, 2)):  # fmt: skip
            if not np.array_equal(simpler, x, equal_nan=True) and _simpler(simpler, x):
                yield (
                    case._replace(params=simpler)
                    if name == "params"
                    else case._replace(grads=simpler)
                )


def _simpler(new: np.ndarray, old: np.ndarray) -> bool:
    weight = lambda x: (len(np.unique(x)), sum(len(f"{v:.17g}") for v in x.ravel()))
    return weight(new) < weight(old)


def _digits(x: np.ndarray, n: int) -> np.ndarray:
    return np.array([float(f"{v:.{n - 1}e}") for v in x.ravel()]).reshape(x.shape)


def violation(
    subject: Subject,
    case: Case,
    judge: Judge,
    where: Mismatch,
    why: str,
    *,
    dtype: str = "float32",
    other: Callable[[Case], str] | None = None,
    shrunk: bool = True,
    code: str | None = None,
) -> Violation:
    """A violation with the smallest case that shows it.

    `why` is the message, with the placeholders {step}, {leaf}, {found} and {expected}. `other` may
    contain lines of a reproducer that compute `expected` in a second run. Without it, the
    reproducer contains the number.
    """
    small, again = shrink(subject, case, judge) if shrunk else (case, None)
    if again is None:
        small, again = case, where
    end = again.step + 1  # later steps do not matter, whatever time there was to shrink
    small = small._replace(params=small.params[:end], grads=small.grads[:end])
    leaf = cases.paths(small.shapes)[again.at]
    size = len(small.grads)
    example = {
        "dtype": dtype,
        "params": _plain(small.params if np.any(small.params != small.params[:1])
                         else small.params[:1], small.shapes),
        "gradients": _plain(small.grads, small.shapes),
        "parameters follow the updates": bool(small.follow),
        "step": again.step,
        "leaf": leaf,
        "found": again.found,
        "expected": again.expected,
    }  # fmt: skip
    text = why.format(
        step=f"step {again.step + 1} of {size}",
        leaf=leaf,
        found=f"{again.found:.9g}",
        expected=f"{again.expected:.9g}",
    )
    return Violation(text, example, code or one_number(small, again, dtype, other))


def _plain(flat: np.ndarray, shapes: Any) -> list[Any]:
    return [cases.tree(row, shapes) for row in flat]
