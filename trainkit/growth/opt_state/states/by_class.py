"""How a state is changed, by the name of its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainkit.growth.opt_state.states import adafactor, dion, galore, kron, shampoo, sm3, soap

SPECIAL: dict[str, Callable[..., Any]] = {
    "DionState": dion.change,
    "FactoredState": adafactor.change,
    "GaLoreState": galore.change,
    "KronState": kron.change,
    "ScaleBySM3State": sm3.change,
    "ShampooState": shampoo.change,
    "SoapState": soap.change,
}
