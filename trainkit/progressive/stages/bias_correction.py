"""The bias correction of new layers, whose moments are younger than the count of steps.

Adam divides its moments μ and ν by 1 − β₁ᵗ and 1 − β₂ᵗ, with one t for all leaves. A layer that
came into a run a steps ago has moments of a steps. If they began at 0, its updates are too large by

  √((1 − β₂ᵗ) / (1 − β₂ᵃ)) · (1 − β₁ᵃ) / (1 − β₁ᵗ),

up to 6.5 times at β₁ = .9, β₂ = .999. If ν began at that of other leaves, whose gradients have
another size, the wrong size would stay for 1 / (1 − β₂) steps. So in a progressive run the moments
of new layers begin at 0, and their updates are multiplied by the inverse of the above: they are
what they would be if their own steps were counted (up to ε, which is √(1 − β₂ᵃ) of what it was).

Reference: Kingma and Ba, Adam, 2015, section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Decays(NamedTuple):
    """The decays per step of the moments of a leaf.

    Attributes:
      first: β₁ of μ; 0: there is none.
      second: β₂ of ν; 0: nothing is corrected.
      ahead: 1 for Nesterov's μ, which is one step ahead; otherwise 0.
    """

    first: float = 0.0
    second: float = 0.0
    ahead: float = 0.0


def correction(decays: Decays, steps: Any, age: Any) -> Any:
    """√((1 − β₂ᵃ) / (1 − β₂ᵗ)) · (1 − β₁ᵗ) / (1 − β₁ᵃ); of Nesterov's μ t + 1 and a + 1 count.

    Args:
      decays: those of the leaf, numbers or arrays.
      steps: t, the number of this update.
      age: a, the number of this update since the leaf came, from 1 to t.

    >>> round(float(correction(Decays(.9, .999), 1000., 1.)), 3), correction(Decays(0., 0.), 9., 1.)
    (0.398, 1.0)
    """
    first = (1 - decays.first ** (steps + decays.ahead)) / (
        1 - decays.first ** (age + decays.ahead)
    )
    return first * ((1 - decays.second**age) / (1 - decays.second**steps)) ** 0.5
