"""How a state is changed, by the name of its class."""

from __future__ import annotations

from trainkit.growth.opt_state.states import adafactor, dion, galore, kron, shampoo, sm3, soap

SPECIAL = {
    "DionState": dion.change,
    "FactoredState": adafactor.change,
    "GaLoreState": galore.change,
    "KronState": kron.change,
    "ScaleBySM3State": sm3.change,
    "ShampooState": shampoo.change,
    "SoapState": soap.change,
}
