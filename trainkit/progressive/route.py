"""Where a run is among its stages, and what may come next, made ready in the background."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from trainkit.progressive.background import Background
from trainkit.progressive.probe import Price, Probe, Probing
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.transition.switch import Transition


class Route:
    """The stages of a run, and the way that it has taken through them.

    Args:
      levels: the alternatives of every level, prepared.
      transitions: (level, alternative, alternative of the next) -> how the one becomes the other.
      background: where what comes next is compiled.
      probe: how alternatives are compared; without one, only where there are several.
      price: what size must be worth.

    Attributes:
      taken: the alternative that was taken at each level so far.
    """

    def __init__(
        self,
        levels: Sequence[Sequence[PreparedStage]],
        transitions: Mapping[tuple[int, int, int], Transition],
        background: Background,
        probe: Probe | None,
        price: Price,
    ):
        self.levels, self.transitions, self.background = levels, transitions, background
        self.probe, self.price = probe or Probe(), price
        self._always_probes = probe is not None
        self.taken = [0]

    @property
    def level(self) -> int:
        """Which stage it is in, from 0."""
        return len(self.taken) - 1

    @property
    def here(self) -> PreparedStage:
        """The stage it is in."""
        return self.levels[self.level][self.taken[-1]]

    @property
    def next(self) -> list[Transition]:
        """The transitions that lead to the next level."""
        if self.level + 1 == len(self.levels):
            return []
        key = self.level, self.taken[-1]
        return [self.transitions[*key, k] for k in range(len(self.levels[self.level + 1]))]

    @property
    def probes(self) -> bool:
        """Whether a probe chooses what comes next."""
        return bool(self.next) and (len(self.next) > 1 or self._always_probes)

    def prepare(self) -> None:
        """Begins to compile, in the background, what may come next."""
        transitions, here = self.next, self.here
        for transition in transitions:
            # The probe needs the FLOPs of what it compares, so transitions come first.
            self.background.start(transition, self._ready(transition))
        if self.probes:
            probing = lambda: Probing(here, transitions, self.probe, self.price).compile()
            self.background.start(("probe", here), probing)

    @property
    def prepared(self) -> bool:
        """Whether all that may come next is compiled."""
        names: list[Hashable] = [*self.next, *([("probe", self.here)] if self.probes else [])]
        return all(self.background.ready(name) for name in names)

    def compiled(self, transition: Transition) -> Transition:
        """A transition, compiled; it is waited for if need be."""
        self.background.start(transition, self._ready(transition))
        return self.background.get(transition)

    def probing(self) -> Probing:
        """What chooses among the transitions, compiled; it is waited for if need be."""
        self.prepare()
        return self.background.get(("probe", self.here))

    def _ready(self, transition: Transition) -> Callable[[], Transition]:
        # A rehearsal takes time that is only worth it while something else goes on.
        if self.background.enabled:
            return lambda: transition.compile().rehearse()
        return transition.compile
