"""References for rules that Optax has not, each a function of its hyper-parameters.

`like="mars"` means it, and its signature says what `hyperparams` may have. Kernels are [in, out],
as in Flax: where a paper writes about the rows of W, one for each output, these are the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainkit.laws.oracles import wrappers as W
from trainkit.laws.oracles.pieces import Start


def cautious(inner: Any, slack: float = 1.0) -> Start:
    return W.cautious(W.foreign(inner), slack)


def lookahead(
    inner: Any, sync_period: int = 5, slow_step_size: float = 0.5, outer: Any = None
) -> Start:
    slow = W.toward(slow_step_size) if outer is None else W.foreign(outer)
    return W.lookahead(W.foreign(inner), slow, sync_period)


PAPERS: dict[str, Callable[..., Start]] = {
    "cautious": cautious,
    "lookahead": lookahead,
}
