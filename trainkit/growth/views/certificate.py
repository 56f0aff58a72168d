"""The certificate of a growth: measurements before and after."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Measurements of one growth. `print` it, or save `to_json()` with the checkpoint.

    Attributes:
      forward_error: dtype of the arithmetic -> max |outputs′ − outputs| / rms(outputs): of the
        parameters, and bfloat16 if the model runs in it.
      gradient_residual: the maximum of ‖g′ − f·g[π]‖ / ‖f·g[π]‖ over leaves with an exact factor; 0
        if there are none.
      calibrated: leaves whose gradient factor is a best guess.
      fresh: leaf name -> number of entries in padding units (which copy no old unit).
      new_layers: leaves of new layers.
      zeroed: leaves that are 0 so that new layers are identities.
      dead: units whose parameters have no gradient at the second probe step, as "leaf, axis a:
        unit j".
      replica_distance: (smallest, median) relative distance between copies of a unit after the
        probe steps; `None` if nothing was copied.
      update_norm: (predicted, actual) norm of the first update: in exact continuation, and by the
        plain transformation.
      flops: forward FLOPs on the probe batch, (before, after).
      parameters, bytes: (before, after); bytes include the optimizer state.
      warnings: sentences for the reader.
    """

    forward_error: dict[str, float]
    gradient_residual: float
    calibrated: tuple[str, ...]
    fresh: dict[str, int]
    new_layers: tuple[str, ...]
    zeroed: tuple[str, ...]
    dead: tuple[str, ...]
    replica_distance: tuple[float, float] | None
    update_norm: tuple[float, float]
    flops: tuple[float, float]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """The certificate as JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The inverse of `to_json`."""
        tuples = lambda x: tuple(x) if isinstance(x, list) else x
        values: dict[str, Any] = {n: tuples(v) for n, v in json.loads(text).items()}
        return cls(**values)

    def __str__(self) -> str:
        few = lambda names: ", ".join(names[:4]) + (f", … ({len(names)})" if len(names) > 4 else "")
        change = lambda pair: f"{pair[0]:,.0f} → {pair[1]:,.0f} (×{pair[1] / max(pair[0], 1):.2f})"
        lines = [
            ("outputs", ", ".join(f"{e:.1e} in {d}" for d, e in self.forward_error.items())),
            ("gradient factors", f"residual {self.gradient_residual:.1e}"),
            ("calibrated", few(self.calibrated) or "none"),
            ("fresh entries", few([f"{n}: {k}" for n, k in self.fresh.items()]) or "none"),
            ("new layers", f"{len(self.new_layers)} leaves, at 0: {few(self.zeroed) or 'none'}"),
            ("dead units", few(self.dead) or "none"),
            (
                "copies apart",
                "no copies"
                if self.replica_distance is None
                else "smallest {:.1e}, median {:.1e}".format(*self.replica_distance),
            ),
            ("update norm", "predicted {:.3e}, actual {:.3e}".format(*self.update_norm)),
            ("FLOPs", change(self.flops)),
            ("parameters", change(self.parameters)),
            ("bytes", change(self.bytes)),
            *(("warning", text) for text in self.warnings),
        ]
        return "\n".join(f"{name:<17} {text}" for name, text in lines)
