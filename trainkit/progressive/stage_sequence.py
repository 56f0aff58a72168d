"""The stages of a run: which is current, and which may follow, compiled in the background."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from trainkit.progressive.background import Background
from trainkit.progressive.probe import Price, Probe, ProbeProgram
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.transition.switch import Transition


class StageSequence:
    """The stages of a run, and those that it has reached so far.

    Args:
      levels: the prepared alternatives of every level.
      transitions: (level, alternative, alternative of the next level) -> transition.
      background: the thread that compiles the next transitions.
      probe: how to compare candidates; `None`: probe only if there are several alternatives.
      price: the loss that size must save.

    Attributes:
      path: the alternative that was chosen at each level so far.
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
        self.path = [0]

    @property
    def level(self) -> int:
        """The number of the current stage, from 0."""
        return len(self.path) - 1

    @property
    def current(self) -> PreparedStage:
        """The current stage."""
        return self.levels[self.level][self.path[-1]]

    @property
    def next(self) -> list[Transition]:
        """The transitions from the current stage to those of the next level."""
        if self.level + 1 == len(self.levels):
            return []
        key = self.level, self.path[-1]
        return [self.transitions[*key, k] for k in range(len(self.levels[self.level + 1]))]

    @property
    def probes(self) -> bool:
        """Whether a probe chooses the next stage."""
        return bool(self.next) and (len(self.next) > 1 or self._always_probes)

    def prepare(self) -> None:
        """Starts to compile the next transitions, and their probe, in the background."""
        transitions, current = self.next, self.current
        for transition in transitions:
            # Transitions come first: the probe needs the FLOPs of each.
            self.background.start(transition, self._ready(transition))
        if self.probes:
            program = lambda: ProbeProgram(current, transitions, self.probe, self.price).compile()
            self.background.start(("probe", current), program)

    @property
    def prepared(self) -> bool:
        """Whether the next transitions, and their probe, are compiled."""
        names: list[Hashable] = [*self.next, *([("probe", self.current)] if self.probes else [])]
        return all(self.background.ready(name) for name in names)

    def compiled(self, transition: Transition) -> Transition:
        """The compiled transition; waits for it if necessary."""
        self.background.start(transition, self._ready(transition))
        return self.background.get(transition)

    def probe_program(self) -> ProbeProgram:
        """The compiled program that compares the candidates; waits for it if necessary."""
        self.prepare()
        return self.background.get(("probe", self.current))

    def _ready(self, transition: Transition) -> Callable[[], Transition]:
        # A rehearsal saves time only if it runs beside the training.
        if self.background.enabled:
            return lambda: transition.compile().rehearse()
        return transition.compile
