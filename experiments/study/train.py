"""When growing pays: every setting of the study, one after another, and a verdict on each.

trainkit train study                    all of them, hours on two cores; the same command goes on
trainkit train study --only muon shared
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.progressive_lm import train
from trainkit.report.progress import width

RATES = (0.00075, 0.0015, 0.003, 0.006, 0.012, 0.024)
MUON_RATES = (0.006, 0.012, 0.024, 0.048)
FIVE, THREE = (0.0625, 0.125, 0.25, 0.5, 1.0), (0.25, 0.5, 1.0)
MUON: dict[str, Any] = {"optimizers": ("muon",), "moments": ("carry", "reset")}
# Options of `progressive_lm`.
SETTINGS: dict[str, dict[str, Any]] = {
    "text, AdamW": {
        "steps": 640, "budgets": FIVE, "grow_at": (0.005,), "seed": 100, "rates": RATES,
    },
    "text, Muon": {
        **MUON, "budgets": THREE, "grow_at": (0.01,), "seed": 300, "seeds": 6, "rates": MUON_RATES,
    },
    "text, SOAP": {
        "optimizers": ("soap",), "budgets": THREE, "grow_at": (0.01,), "seed": 600,
        "rates": RATES[1:],
    },
    "four blocks, 64 wide, AdamW": {
        "small": (64, 0), "large": (64, 4), "controls": (1, 2), "budgets": THREE, "seed": 700,
        "grow_at": (0.01, 0.04, 0.15), "seeds": 3, "rates": RATES[1:5],
    },
    "text by length, AdamW": {
        "lengths": (8, 16), "lengths_until": (0.1, 0.2), "seed": 800, "seeds": 6,
        "rates": RATES[1:],
    },
    "topics, AdamW": {"task": "topics", "seeds": 3, "rates": RATES[2:]},
    "sums, AdamW": {"task": "sums", "seeds": 3, "rates": RATES[2:]},
    **{
        f"shared core, Muon, {steps} steps": {
            **MUON, "shared": True, "operators": ("stack",), "small": (32, 2), "large": (32, 4),
            "controls": (3,), "grow_at": (0.6,), "budgets": (1.0,), "steps": steps, "seed": 400,
            "rates": (*MUON_RATES[1:], 0.096),
        }
        for steps in (160, 320, 640)
    },
    "width 16 to 32, AdamW": {
        "operators": ("identity", "even", "noise", "rms"), "small": (16, 2), "large": (32, 2),
        "controls": (), "grow_at": (0.05,), "seed": 500, "rates": RATES[2:],
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Run every setting of `progressive_lm` in docs/studies/scales.md, and say the verdicts."""

    only: tuple[str, ...] = ()
    """Only settings whose names have one of these in them."""
    out: str = "runs/study"
    """The folder, in which every setting has its own; the same command runs what is missing."""

    def __post_init__(self) -> None:
        if unknown := [part for part in self.only if not any(part in name for name in SETTINGS)]:
            raise ValueError(f"--only names {unknown}; the settings are: {'; '.join(SETTINGS)}.")


def run(config: Config) -> dict[str, dict[str, Any]]:
    """What `progressive_lm` returns, by the setting's name."""
    chosen = [n for n in SETTINGS if not config.only or any(part in n for part in config.only)]
    found = {}
    for number, name in enumerate(chosen):
        print(f"\n{name} ({number + 1} of {len(chosen)})\n{'=' * min(len(name), width())}")
        folder = name.replace(", ", "-").replace(" ", "-")
        found[name] = train.run(train.Config(**SETTINGS[name], out=str(Path(config.out) / folder)))
    print()
    for name, content in found.items():
        for verdict in content["verdict"].values():
            print(f"{name}: {verdict['sentence']}\n")
    return found
