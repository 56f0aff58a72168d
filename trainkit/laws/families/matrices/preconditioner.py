"""Laws of preconditioners: their age, and the basis in which they work."""

from __future__ import annotations

from typing import Any

from trainkit.laws.families.matrices import measures as M
from trainkit.laws.families.matrices.spectrum import shim
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.programs import inner_code
from trainkit.laws.subject import Subject

EVERY = 3
STEPS = 13  # four periods
ALIKE = 0.85
AHEAD = 0.5
LONG = 300
UPRIGHT = 1e-4


@ordinary()
def stale(subject: Subject) -> Violation | None:
    """claims={"stale": a function from the steps between two refreshes to the rule}"""
    make: Any = subject.claims["stale"]
    if make is True:
        raise NotApplicable('say how: claims={"stale": lambda every: my_rule(1e-3, every=every)}')
    for phase in range(EVERY):
        cosine = M.staleness(make, EVERY, phase)
        if not cosine >= ALIKE:
            return Violation(
                f"refreshed every {EVERY} steps, the updates have a cosine of {cosine:.3g} with "
                "those of a rule that is refreshed in each, long after the gradients began to "
                f"repeat (the gradients of one step of {EVERY} are small): what a step between two "
                "refreshes brings does not reach the preconditioner",
                {"every": EVERY, "small gradients at step": phase, "cosine": cosine},
                inner_code(make, "make") + "\n" + M.program(
                    M.staleness, f"cosine = staleness(make, {EVERY}, {phase})",
                    f"assert cosine >= {ALIKE}, f'a cosine of {{cosine}}'"))  # fmt: skip
    return None


@ordinary()
def on_time(subject: Subject) -> Violation | None:
    """claims={"stale": a function from the steps between two refreshes to the rule}"""
    make: Any = subject.claims["stale"]
    if make is True:
        raise NotApplicable('say how: claims={"stale": lambda every: my_rule(1e-3, every=every)}')
    for name, at in M.refreshes(make(EVERY), STEPS).items():
        # The first refresh may be an initialisation.
        due = list(range(at[1], STEPS + 1, EVERY)) if len(at) > 1 else []
        if at[1:] == due and due:
            continue
        shown = f"at step{'s' * (len(at) > 1)} {', '.join(map(str, at))}"
        return Violation(
            f"refreshed every {EVERY} steps, the state's {name} changed {shown} of {STEPS}",
            {"every": EVERY, "steps": STEPS, "changed": at},
            inner_code(make, "make") + "\n" + M.program(
                M.refreshes, f"found = refreshes(make({EVERY}), {STEPS})", "print(found)",
                "for name, at in found.items():",
                f"    assert at[1:] and at[1:] == [*range(at[1], {STEPS + 1}, {EVERY})], (name, at)"
            ))  # fmt: skip
    return None


@ordinary()
def returns(subject: Subject) -> Violation | None:
    cosine = M.returned(shim(subject))
    if cosine >= AHEAD:
        return None
    return Violation(
        "after large gradients that cancelled in pairs have turned the basis, the update's cosine "
        f"with the average of all gradients is {cosine:.3g}: what was turned into the old basis is "
        "not turned back out of it",
        {"cosine": cosine},
        M.program(M.returned, "cosine = returned(tx)",
                  f"assert cosine >= {AHEAD}, f'a cosine of {{cosine}}'"),
    )  # fmt: skip


@ordinary()
def upright(subject: Subject) -> Violation | None:
    """claims={"basis": an expression for its place in the state}; True: the word "basis"."""
    claim = subject.claims["basis"]
    words = "basis" if claim is True else str(claim)
    found = M.bases(shim(subject), words, 2)
    if not found:
        raise NotApplicable(
            f"no square matrix of the state of a 5×5 leaf is called {words!r}; say its path: "
            'claims={"basis": "…"}'
        )
    for steps in (2, LONG):
        for name, off in M.bases(shim(subject), words, steps).items():
            if not off <= UPRIGHT:
                return Violation(
                    f"after {steps} steps QᵀQ of the state's {name} is {off:.3g} away from 1",
                    {"leaf": name, "step": steps, "off": off},
                    M.program(M.bases, f"off = bases(tx, {words!r}, {steps})",
                              f"assert max(off.values()) <= {UPRIGHT}, off"))  # fmt: skip
    return None


LAWS = (
    Law("staleness", "A preconditioner that is refreshed every few steps knows all gradients.",
        stale, claim="stale", tolerance=f"a cosine of {ALIKE}",
        why="refreshes by a power iteration are a step late; Shampoo, SOAP and Kron have .9 and "
        "more, and those that lose what is between refreshes have below .8 in some phase"),
    Law("refreshed on time", "A preconditioner that is refreshed every k steps is so in every "
        "period.", on_time, claim="stale", tolerance="exact",
        why="what changes now and then does so every k steps; only the first time is free"),
    Law("the basis is left again", "What is rotated into a basis is rotated out of the same one.",
        returns, claim="basis", tolerance=f"a cosine of {AHEAD}",
        why="a positive definite preconditioner keeps .6 and more; a basis that is missing on one "
        "side leaves below .4"),
    Law("the basis stays orthogonal", "A basis in the state is orthonormal, also after 300 steps.",
        upright, claim="basis", tolerance="1e-4", why="a QR decomposition in float32 leaves 1e-6"),
)  # fmt: skip
