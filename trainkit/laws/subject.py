"""What is being checked, and the runs that its laws share."""

from __future__ import annotations

import contextlib
import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import cases
from trainkit.laws.law import Level, NotApplicable
from trainkit.laws.oracles.catalogue import Oracle


class Run(NamedTuple):
    """What one trajectory gave: `flat[t]` is the update of step t, its leaves laid side by side."""

    flat: np.ndarray  # [T, N]
    params: np.ndarray  # [T, N], as the rule saw them
    state_finite: np.ndarray  # [T] bool


@dataclass(frozen=True)
class Runs:
    """All the trajectories of a batch, in one precision."""

    batch: cases.Batch
    flat: np.ndarray  # [E, T, N] float64
    params: np.ndarray
    state_finite: np.ndarray  # [E, T]

    def __getitem__(self, name: str) -> Run:
        i = self.batch.rows[name]
        return Run(self.flat[i], self.params[i], self.state_finite[i])


class Crash(Exception):
    """The rule failed while a run was being made; the cause is chained."""

    def __init__(self, where: str, cause: BaseException):
        super().__init__(f"{where}: {type(cause).__name__}: {first_line(cause)}")
        self.where, self.cause = where, cause


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


@contextlib.contextmanager
def ordinary() -> Iterator[None]:
    """The user's usual settings: standard promotion, warnings not errors, NumPy quiet."""
    with (
        jax.numpy_dtype_promotion("standard"),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


# Extra arguments that the kit can make for a rule that asks for them.
def _loss(params: Any) -> Any:
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return sum(jnp.sum(jnp.square(wide(x))) for x in jax.tree.leaves(params)) / 2


MADE_UP: dict[str, Callable[[Any, Any], Any]] = {
    "value": lambda params, grads: _loss(params),
    "loss": lambda params, grads: _loss(params),
    "grad": lambda params, grads: grads,
    "value_fn": lambda params, grads: _loss,
    "obj_fn": lambda params, grads: _loss,
}


class Subject:
    """A rule under test: how to make it, what it claims to be, and its memoised runs.

    A law asks it for `subject.tx`, `subject.fresh()` (a second instance, where a factory was
    given), `subject.update(g, state, params)` (which supplies extra arguments), `subject.run(row)`
    and `subject.runs(dtype)`.
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
    ):
        self.given = made
        self.like, self.hyperparams = like, dict(hyperparams or {})
        self.claims = dict(claims or {})
        self.level, self.examples, self.seed = level, examples, seed
        self.extra_args = extra_args
        self.oracle: Oracle | None = None
        self.notes: list[str] = []
        self.memo: dict[Any, Any] = {}
        self.needs: tuple[str, ...] = ()
        self.tx = build(made)

    @property
    def is_factory(self) -> bool:
        return not is_transformation(self.given)

    @property
    def chooses_leaves(self) -> bool:
        """Whether a mask or labels may treat leaves otherwise for their names, shapes or places."""
        chosen = {k: v for k, v in self.hyperparams.items() if "mask" in k or "labels" in k}
        return any(v not in (None, True) for v in chosen.values())

    def fresh(self) -> Any:
        """Another instance, where a factory was given; otherwise the same one."""
        return build(self.given)

    # -- extra arguments --------------------------------------------------------------------------

    def extra(self, params: Any, grads: Any) -> dict[str, Any]:
        made = {name: MADE_UP[name](params, grads) for name in self.needs}
        own = self.extra_args
        if callable(own):
            own = own(params, grads)
        return made | dict(own or {})

    def update(self, grads: Any, state: Any, params: Any, tx: Any = None) -> Any:
        """`tx.update` with whatever extra arguments the rule needs."""
        tx = self.tx if tx is None else tx
        extra = self.extra(params, grads)
        if not extra:
            return tx.update(grads, state, params)
        return tx.update(grads, state, params, **extra)

    def find_needs(self) -> None:
        """Learns which extra arguments the rule cannot do without.

        Raises:
          TypeError: it needs one that was not passed and that the kit cannot make.
        """
        flat = np.ones(sum(cases.sizes(cases.SHAPES)), np.float32)
        params = jax.tree.map(jnp.asarray, cases.tree(flat, cases.SHAPES))
        for _ in range(len(MADE_UP) + 1):
            try:
                with ordinary():
                    jax.eval_shape(lambda p: self.update(p, self.tx.init(p), p)[0], params)
                return
            except TypeError as error:
                missing = re.findall(
                    r"missing \d+ required (?:keyword-only|positional) arguments?: (.*)", str(error)
                )
                names = re.findall(r"'(\w+)'", missing[0]) if missing else []
                new = [n for n in names if n not in self.needs]
                unknown = [n for n in new if n not in MADE_UP]
                if unknown and "update" in str(error):
                    shown = ", ".join(f"'{n}': …" for n in unknown)
                    raise TypeError(
                        f"the rule's update needs the extra argument {', '.join(unknown)}; pass "
                        f"extra_args={{{shown}}}, or extra_args=lambda params, grads: {{{shown}}}"
                    ) from error
                if not new or unknown:
                    return  # not about extra arguments: some law will report it
                self.needs += tuple(new)
            except Exception as error:
                # Rules that look for it among **extra_args say so in words of their own.
                if not re.search(r"provide|requir|missing|need|expect", str(error)):
                    return  # some law will report it, with its reproducer
                new = [n for n in re.findall(r"\w+", str(error)) if n in MADE_UP]
                new = [n for n in new if n not in self.needs]
                if not new:
                    return
                self.needs += tuple(new)

    # -- runs -------------------------------------------------------------------------------------

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Makes a run once; a crash in it is remembered too."""
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
        """Every trajectory of the batch, scanned in one compiled program."""

        def make() -> Runs:
            with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
                b = cases.rounded(cases.batch(self.seed, self.examples), dtype)
                flat, params, finite = scanned(self, self.tx, dtype, cases.SHAPES)(
                    b.params.astype(jnp.dtype(dtype)),
                    b.grads.astype(jnp.dtype(dtype)),
                    b.follow.astype(jnp.dtype(dtype)),
                )
                wide = lambda x: np.asarray(x).astype(np.float64)
                return Runs(b, wide(flat), wide(params), np.asarray(finite))

        return self.remember(("scan", dtype), make)

    def long(self, case: cases.Case) -> Run:
        """One trajectory of many steps, scanned."""

        def make() -> Run:
            flat, params, finite = scanned(self, self.tx, "float32", case.shapes)(
                case.params[None].astype(np.float32),
                case.grads[None].astype(np.float32),
                np.zeros(1, np.float32),
            )
            wide = lambda x: np.asarray(x[0]).astype(np.float64)
            return Run(wide(flat), wide(params), np.asarray(finite[0]))

        return self.remember(("scan", "of many steps"), make)

    def run(self, row: str, dtype: str = "float32") -> Run:
        """One named trajectory: "plain", "negated", "scaled", "zeros", "tiny", … (see `cases`)."""
        return self.runs(dtype)[row]

    def replay(self, case: cases.Case, dtype: str = "float32") -> Run:
        """One trajectory by itself, step by step; used to shrink a counterexample."""
        kind = jnp.dtype(dtype)
        with ordinary(), jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
            step = self.memo.setdefault(
                ("replay", case.shapes, dtype),
                jax.jit(lambda g, s, p: self.update(g, s, p)),
            )
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
            return Run(np.stack(out), np.stack(seen), np.ones(len(out), bool))

    def only_rounding(self, gap: float, in_float64: Callable[[], bool], where: str) -> bool:
        """Whether a difference of relative size `gap` in float32 is rounding that grew.

        It is where it is small and the same comparison made in float64 shows nothing. The report
        says so: an ill-conditioned formula is worth knowing of, but it is not another formula.
        """
        if not gap <= 0.03:
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

    def trajectory(
        self, tx: Any, params: Any, grads: list[Any], apply: bool = True, eager: bool = False
    ) -> list[Any]:
        """The updates of some steps, called one by one; parameters follow the updates.

        They are called eagerly, unless that is slow: `lax.cond` and its like compile anew at every
        eager call, so such a rule is jitted (where `eager` does not insist).
        """
        with ordinary():
            state, out, times = tx.init(params), [], []
            update = lambda g, s, p: self.update(g, s, p, tx=tx)
            if not eager and self.memo.get("slow when eager"):
                update = jax.jit(update)
            for g in grads:
                began = time.perf_counter()
                updates, state = update(g, state, params)
                times.append(time.perf_counter() - began)
                out.append(updates)
                if apply:
                    params = optax.apply_updates(params, updates)
            # The later steps of a first run: those that had nothing new to compile.
            self.memo.setdefault("slow when eager", len(times) > 2 and min(times[1:]) > 0.05)
            return out


def scanned(
    subject: Subject, tx: Any, dtype: str, shapes: tuple[tuple[int, ...], ...]
) -> Callable[..., Any]:
    """The compiled program that runs every trajectory of a batch, one after the other."""

    def one(row: Any) -> Any:
        base, grads, follow = row
        state = tx.init(cases.tree(base[0], shapes))

        def step(carry: Any, x: Any) -> Any:
            state, moved = carry
            b, g = x
            p = b + follow * moved
            updates, state = subject.update(
                cases.tree(g, shapes), state, cases.tree(p, shapes), tx=tx
            )
            flat = cases.flatten(updates)
            return (state, moved + flat.astype(moved.dtype)), (flat, p, all_finite(state))

        _, out = jax.lax.scan(step, (state, jnp.zeros_like(base[0])), (base, grads))
        return out

    return jax.jit(lambda params, grads, follow: jax.lax.map(one, (params, grads, follow)))


def all_finite(state: Any) -> Any:
    ok = jnp.array(True)
    for x in jax.tree.leaves(state):
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            ok &= jnp.all(jnp.isfinite(x))
    return ok


def is_transformation(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))


def build(made: Any) -> Any:
    """The transformation itself, from one or from a zero-argument factory.

    Raises:
      TypeError: it is neither, or the factory needs arguments or returns something else.
      ValueError: the factory raised; the cause is chained.
    """
    if is_transformation(made) and not inspect.isclass(made):
        return paired(made)
    shown = getattr(made, "__qualname__", None) or repr(made)
    if not callable(made):
        raise TypeError(
            f"expected an optax.GradientTransformation (a pair of init and update) or a function "
            f"of no arguments that makes one, found {type(made).__name__}: {shown:.200}"
        )
    required = []
    with contextlib.suppress(ValueError, TypeError):
        required = [
            name
            for name, p in inspect.signature(made).parameters.items()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
    if required:
        hint = (
            " (a schedule is checked by check_schedule)"
            if required in (["count"], ["step"], ["t"])
            else ""
        )
        raise TypeError(
            f"the factory {shown} needs {', '.join(required)}, but a factory takes no arguments: "
            f"pass lambda: {shown}({', '.join(n + '=…' for n in required)}){hint}"
        )
    try:
        with ordinary():
            tx = made()
    except Exception as error:
        raise ValueError(
            f"the factory {shown} raised {type(error).__name__}: {first_line(error)}; it must "
            f"return an optax.GradientTransformation when called without arguments"
        ) from error
    if not is_transformation(tx):
        raise TypeError(
            f"the factory {shown} returned {type(tx).__name__}: {tx!r:.200}, not an "
            f"optax.GradientTransformation (a pair of init and update)"
        )
    return paired(tx)


def paired(tx: Any) -> Any:
    """The pair that chains take; an object with the two methods (`optax.MultiSteps`) has one."""
    if isinstance(tx, tuple):
        return tx
    return optax.GradientTransformation(tx.init, tx.update)


def mini(dtype: str = "float32") -> tuple[Any, list[Any]]:
    """Two leaves and six gradients for what is called step by step (made anew at every call)."""
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.dtype(dtype))
    params = {"b": draw(3) + 1, "w": draw(2, 3)}
    return params, [{"b": draw(3), "w": draw(2, 3)} for _ in range(6)]
