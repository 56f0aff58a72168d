"""`Subject`: the rule under test, and the runs that its laws share."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import losses
from trainkit.laws.clock import Clock
from trainkit.laws.law import Level, NotApplicable
from trainkit.laws.oracles.catalogue import Oracle
from trainkit.laws.per_example import adapted
from trainkit.laws.problems import cases
from trainkit.laws.problems.comparison import RELATIVE, gap_of
from trainkit.laws.problems.runs import Run, Runs, scanned
from trainkit.laws.protocol import build, first_line, is_transformation, ordinary
from trainkit.laws.subject.operations import FINE, coarsest, rounded_by, storing


class Crash(Exception):
    """The rule raised an exception in a run; the cause is chained."""

    def __init__(self, where: str, cause: BaseException):
        super().__init__(f"{where}: {type(cause).__name__}: {first_line(cause)}")
        self.where, self.cause = where, cause


class Subject:
    """A rule under test, with its claims and its memoised runs.

    Laws use `subject.tx`, `subject.fresh()` (a second instance, if a factory was given),
    `subject.update(g, state, params)` (which supplies extra arguments), `subject.run(row)` and
    `subject.runs(dtype)`.
    """

    def __init__(
        self,
        made: Any,
        *,
        like: str | None = None,
        hyperparams: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        level: Level = "standard",
        examples: int = 25,
        seed: int = 0,
        extra_args: Any = None,
        oracle: Oracle | None = None,
        clock: Clock | None = None,
    ):
        self.source, self.clock = made, clock or Clock()
        self.like, self.hyperparams = like, dict(hyperparams or {})
        self.claims = dict(claims or {})
        self.level, self.examples, self.seed = level, examples, seed
        self.extra_args = extra_args
        self.oracle = oracle
        self.notes: list[str] = []
        self.memo: dict[Any, Any] = {}
        self.needs: tuple[str, ...] = ()
        self.tx = adapted(build(made), self.claims)

    @property
    def is_factory(self) -> bool:
        return not is_transformation(self.source)

    @property
    def chooses_leaves(self) -> bool:
        """Whether the treatment of a leaf may depend on its name, shape or position (masks)."""
        chosen = {k: v for k, v in self.hyperparams.items() if "mask" in k or "labels" in k}
        return any(v not in (None, True) for v in chosen.values())

    def fresh(self) -> Any:
        """Another instance if a factory was given; otherwise the same one."""
        return adapted(build(self.source), self.claims)

    @property
    def slope(self) -> float:
        """+1 if the rule gets gradients of its loss, −1 if it gets descent directions."""
        claim = self.claims.get("line search")
        return -1.0 if isinstance(claim, Mapping) and claim.get("takes") == "directions" else 1.0

    # -- extra arguments --------------------------------------------------------------------------

    def extra(self, params: Any, grads: Any) -> dict[str, Any]:
        made = losses.made_up(self.needs, params, grads, self.slope)
        own = self.extra_args
        if callable(own):
            own = own(params, grads)
        return made | dict(own or {})

    def update(self, grads: Any, state: Any, params: Any, tx: Any = None) -> Any:
        """`tx.update` with the extra arguments that the rule needs."""
        self.clock.check()
        tx = self.tx if tx is None else tx
        extra = self.extra(params, grads)
        if not extra:
            return tx.update(grads, state, params)
        return tx.update(grads, state, params, **extra)

    def compiled(self, tx: Any = None) -> Any:
        """The compiled `update(g, state, params)` of the rule, or of another, for all laws.

        A law that only runs it costs no compilation of its own.
        """
        tx = self.tx if tx is None else tx
        call = jax.jit(lambda g, s, p: self.update(g, s, p, tx=tx))  # it keeps tx, and so its id
        return self.memo.setdefault(("compiled", id(tx)), call)

    # -- runs -------------------------------------------------------------------------------------

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """A memoised run; a crash is memoised too."""
        if key not in self.memo:
            try:
                with ordinary():
                    self.memo[key] = make()
            except NotApplicable:
                raise
            except Exception as error:
                name = key if isinstance(key, str) else " ".join(str(k) for k in key)
                self.memo[key] = Crash(name, error)
        made = self.memo[key]
        if isinstance(made, Crash):
            raise made
        return made

    def runs(self, dtype: str = "float32") -> Runs:
        """All trajectories of the batch, in one compiled program."""

        def make() -> Runs:
            b = cases.rounded(cases.batch(self.seed, self.examples), dtype)
            return self.rerun(b, dtype)

        return self.remember(("scan", dtype), make)

    def rerun(self, b: cases.Batch, dtype: str, stored: Any = None) -> Runs:
        """The same compiled program on other trajectories of the same shapes.

        stored: a dtype of whose digits the state has no more after each step; by default all.
        """
        update = self.update if stored is None else storing(self.update, stored)
        x64 = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
        with ordinary(), x64:
            program = self.memo.setdefault(
                ("program", dtype, stored), scanned(update, self.tx.init, dtype, cases.SHAPES)
            )
            cast = lambda x: x.astype(jnp.dtype(dtype))
            flat, params, grads, finite = program(*map(cast, (b.params, b.grads, b.follow, b.pull)))
            wide = lambda x: np.asarray(x).astype(np.float64)
            return Runs(b, wide(flat), wide(params), wide(grads), np.asarray(finite))

    def long(self, case: cases.Case) -> Run:
        """One long trajectory, as a scan."""

        def make() -> Run:
            single = lambda x: np.asarray(x, np.float32)[None]
            flat, params, grads, finite = scanned(
                self.update, self.tx.init, "float32", case.shapes
            )(single(case.params), single(case.grads), single(0.0), single(0.0))
            wide = lambda x: np.asarray(x[0]).astype(np.float64)
            return Run(wide(flat), wide(params), wide(grads), np.asarray(finite[0]))

        return self.remember(("scan", "of many steps"), make)

    def run(self, row: str, dtype: str = "float32") -> Run:
        """One named trajectory: "plain", "negated", "scaled", "zeros", "tiny", … (see `cases`)."""
        return self.runs(dtype)[row]

    def replay(self, case: cases.Case, dtype: str = "float32") -> Run:
        """One trajectory, step by step; used for shrinking."""
        kind = jnp.dtype(dtype)
        with ordinary(), jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
            step = self.compiled()
            as_tree = lambda flat: jax.tree.map(
                jnp.asarray, cases.tree(np.asarray(flat).astype(kind), case.shapes)
            )
            state = self.tx.init(as_tree(case.params[0]))
            moved = np.zeros_like(case.params[0])
            out, seen = [], []
            for p, g in zip(case.params, case.grads, strict=True):
                now = (p + case.follow * moved).astype(kind)
                updates, state = step(as_tree(g), state, as_tree(now))
                flat = np.asarray(cases.flatten(updates)).astype(np.float64)
                moved = moved + flat
                out.append(flat)
                seen.append(now.astype(np.float64))
            return Run(np.stack(out), np.stack(seen), case.grads, np.ones(len(out), bool))

    def only_rounding(
        self, gap: float, in_float64: Callable[[], bool], where: str,
        moved: Callable[[], float] | None = None, sure: bool = False,
    ) -> bool:  # fmt: skip
        """Whether a relative difference `gap` between two programs is amplified rounding.

        That is so if the same comparison in float64 shows no difference, and the difference is
        small, or at most as large as the effect of a rounding error in the gradients. (A recursion
        that divides by a curvature near zero amplifies rounding a million times.) The report notes
        it, because the formula is ill-conditioned, but not wrong. `moved` returns that effect for
        gradients of the law's own. `sure`: float32 is known to differ by rounding, however large
        that is beside the update.
        """
        small = sure or gap <= 0.03 or gap <= 8 * self.sensitivity()
        if not (small or (moved and gap <= 8 * moved())):
            return False
        try:
            with ordinary(), jax.enable_x64(True):
                agrees = in_float64()
        except Exception:  # a rule that cannot run in float64 has no such excuse
            return False
        if agrees:
            self.notes.append(
                f"{where}: float32 is off by {gap:.2g}, float64 is not: rounding that grows inside "
                "the rule"
            )
        return agrees

    def coarse_rounding(self, gap: float, moved: Callable[[float], float], where: str) -> bool:
        """Whether a difference of two programs of one rule is rounding to a dtype of its own.

        Such as Newton and Schulz's iteration in bfloat16, or an eigenbasis that is always found in
        float32: then float64 gradients tell nothing. `moved` is the relative change of the updates
        by that rounding error in the gradients.
        """
        digit = coarsest(self)
        if digit < FINE or gap > 2 * moved(digit):
            return False
        self.notes.append(
            f"{where}: off by {gap:.2g}, which is what rounding to {digit:.2g}, as it does inside, "
            "makes of it"
        )
        return True

    def sensitivity(self, digit: float = FINE) -> float:
        """The relative change of updates by rounding errors in gradients and parameters.

        An update that is a difference of parameters is rounded as they are.
        """

        def make() -> float:
            params, grads = mini()
            plain, worst = self.trajectory(self.tx, params, grads), 0.0
            for seed in range(4):
                off = functools.partial(rounded_by, digit, np.random.default_rng(seed))
                shake = functools.partial(jax.tree.map, off)
                moved = self.trajectory(self.tx, params, [shake(g) for g in grads], seen=shake)
                worst = max(worst, RELATIVE * gap_of(plain, moved)[1])
            return worst

        return float(self.remember(("sensitivity", digit), make))

    @property
    def slow(self) -> bool:
        """Whether eager calls are slow (`lax.cond` and similar compile anew at every call)."""
        if "slow when eager" not in self.memo:
            params, grads = mini()
            with ordinary():
                state, times = self.tx.init(params), []
                for g in grads[:3]:
                    began = time.process_time()
                    _, state = self.update(g, state, params)
                    times.append(time.process_time() - began)
            # Later steps need no new compilation; take their minimum, against other load.
            self.memo["slow when eager"] = min(times[1:]) > 0.05
        return bool(self.memo["slow when eager"])

    def trajectory(
        self, tx: Any, params: Any, grads: list[Any], apply: bool = True, eager: bool = False,
        seen: Callable[[Any], Any] = lambda p: p,
    ) -> list[Any]:  # fmt: skip
        """The updates of some steps, called one by one, with updates added to the parameters.

        Calls are eager. If that is slow, all calls are jitted, unless `eager` is set. `seen` makes
        the parameters that the rule sees of those that it has.
        """
        with ordinary():
            update = lambda g, s, p: self.update(g, s, p, tx=tx)
            if not eager and self.slow:
                update = self.compiled(tx)
            state, out = tx.init(params), []
            for g in grads:
                updates, state = update(g, state, seen(params))
                out.append(updates)
                if apply:
                    params = optax.apply_updates(params, updates)
            return out


def mini(dtype: str = "float32") -> tuple[Any, list[Any]]:
    """New parameters with two leaves, and six gradients, for calls step by step."""
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.dtype(dtype))
    params = {"b": draw(3) + 1, "w": draw(2, 3)}
    return params, [{"b": draw(3), "w": draw(2, 3)} for _ in range(6)]
