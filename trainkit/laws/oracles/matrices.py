"""Rules for matrices, in plain NumPy: Muon, GaLore, SOAP, Shampoo and Dion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Leaves, Start, Step, gone, leafwise, recursion

STANDARD = (3.4445, -4.7750, 2.0315)
DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
PRESETS: dict[str, Any] = {"standard": STANDARD, "dion": DION}


def newton_schulz(x: Any, coefficients: Sequence[Any], scaling: str, eps: float) -> Any:
    """Towards U Vᵀ of x = U S Vᵀ by X ← a X + (b A + c A²) X, A = X Xᵀ (Jordan 2024).

    X is first made smaller than 1: by its Frobenius or spectral norm, or, as part of the first
    step, by rows (AOL, Boissin 2025) or by the norm of A (Schatten-4, Grishina 2025).
    """
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, coefficients, scaling, eps).T
    if scaling in ("frobenius", "spectral"):
        values = np.linalg.svd(x, compute_uv=False)
        x = x / ((np.sqrt(np.sum(values**2)) if scaling == "frobenius" else values.max()) + eps)
    for i, (a, b, c) in enumerate(coefficients):
        if i == 0 and scaling == "aol":
            x = x / np.sqrt(np.maximum(np.abs(x @ x.T).sum(axis=1, keepdims=True), 1e-8))
        if i == 0 and scaling == "schatten":
            x = x / np.sqrt(np.maximum(np.linalg.norm(x @ x.T), 1e-8))
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon(
    coefficients: Any, steps: int, beta: float, eps: float, nesterov: bool, adaptive: bool,
    scaling: str, corrected: bool = True,
) -> Start:  # fmt: skip
    """Muon (Jordan 2024): the orthogonalised momentum.

    corrected: with the bias corrections of Nadam (Dozat 2016), which Jordan's has not.
    """
    if isinstance(coefficients, str):
        coefficients = PRESETS[coefficients]
    rows = np.asarray(coefficients, np.float64)
    rows = np.broadcast_to(rows, (steps, 3)) if rows.ndim == 1 else rows[-steps:]
    abc = [tuple(float(x) for x in row) for row in rows]

    @recursion(0.0)
    def step(g: Any, p: Any, t: int, m: Any) -> Any:
        m = beta * m + (1 - beta) * g
        top = m / gone(beta, t, g) if corrected else m
        if nesterov and not corrected:
            top = beta * m + (1 - beta) * g
        elif nesterov:
            top = beta * m / gone(beta, t + 1, g) + (1 - beta) * g / gone(beta, t, g)
        u = newton_schulz(top, abc, scaling, eps)
        return (np.sum(top * u) * u if adaptive else u), m

    return step


def by_shape(consistent: float | None) -> Start:
    """√max(1, out / in), or, for a consistent rms, r √max(in, out) (Liu 2025)."""

    def leaf(p0: Any) -> Callable[..., Any]:
        fan_in, fan_out = np.shape(p0)
        if consistent is None:
            factor = max(1.0, fan_out / fan_in) ** 0.5
        else:
            factor = max(fan_in, fan_out) ** 0.5 * consistent
        return lambda g, p, t: factor * g

    return leafwise(leaf)


def each(choose: Callable[[Any], Start]) -> Start:
    """A piece that is chosen leaf by leaf."""

    def start(params: Leaves) -> Step:
        steps = [choose(p)([p]) for p in params]
        return lambda gs, ps, t, **extra: [
            s([g], [p], t, **extra)[0] for s, g, p in zip(steps, gs, ps, strict=True)
        ]

    return start


def galore(rank: int, every: int, factor: float, base: Start, larger: bool = False) -> Start:
    """GaLore (Zhao 2024, arXiv 2403.03507): `base` in the gradient's largest singular vectors.

    They are those of the smaller side (algorithm 2: m ≤ n, and P from the left ones), so that what
    `base` sees is r by the larger one; `larger`: of the larger side, and r by the smaller one.

    NaN where the paper leaves open which vectors: for equal singular values (such as none), and,
    as the signs of new vectors meet the moments of the old ones, from the second projection on.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        if np.ndim(p0) != 2:
            alone = base([p0])
            return lambda g, p, t: alone([g], [p], t)[0]
        # Turned so that the side whose vectors are taken comes first.
        turned = p0.shape[0] < p0.shape[1] if larger else p0.shape[0] > p0.shape[1]
        k = min(rank, *p0.shape)
        small = np.zeros((k, p0.shape[0] if turned else p0.shape[1]), p0.dtype)
        inner = base([small])
        vectors: Any = None

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal vectors
            x = g.T if turned else g
            if (t - 1) % every == 0:
                left, values, _ = np.linalg.svd(x, full_matrices=False)
                vectors = left[:, :k]
                if t > 1 or np.min(-np.diff(np.append(values, 0.0))) < 1e-6 * values.max(
                    initial=1e-30
                ):
                    vectors = vectors + np.nan
            u = factor * (vectors @ inner([vectors.T @ x], [small], t)[0])
            return u.T if turned else u

        return step

    return leafwise(leaf)


def soap(b1: float, b2: float, eps: float, every: int, decay: float = 0.0) -> Start:
    """SOAP (Vyas 2024, arXiv 2409.11321, algorithm 3): Adam in eigenbases.

    They are those of the averages of g gᵀ and gᵀ g.

    As in the authors' code the first gradient only starts the bases, nothing moves (nor decays),
    and every so many steps a basis is refreshed by one power iteration, its columns in the order of
    their eigenvalues, which the second moment follows. Vectors get Adam; of tensors the paper says
    nothing (NaN).

    NaN where the first gradient leaves a basis open, and where a rotated second moment is rounding,
    as under constant gradients: these are diagonal in their own basis.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        m = v = np.zeros_like(p0)
        grams = [np.zeros((n, n), p0.dtype) for n in np.shape(p0)] if np.ndim(p0) == 2 else []
        bases: list[Any] = []
        into = lambda x: bases[0].T @ x @ bases[1] if grams else x
        back = lambda x: bases[0] @ x @ bases[1].T if grams else x

        def refresh() -> None:
            nonlocal v
            for axis, gram in enumerate(grams):
                order = np.argsort(-np.diag(bases[axis].T @ gram @ bases[axis]))
                v = np.take(v, order, axis)
                bases[axis] = np.linalg.qr(gram @ bases[axis][:, order])[0]

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, v, grams, bases
            squares = (g @ g.T, g.T @ g) if grams else ()
            grams = [b2 * a + (1 - b2) * x for a, x in zip(grams, squares, strict=True)]
            if t == 1:
                found = [np.linalg.eigh(gram) for gram in grams]
                bases = [vectors[:, ::-1] for _, vectors in found]
                # Of a null space of two dimensions any basis is one.
                null = [np.sum(w < 1e-6 * w.max()) for w, _ in found if w.max() > 0]
                if np.ndim(p0) > 2 or max(null, default=0) > 1:
                    v = v + np.nan
                return np.zeros_like(p0)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * into(g) ** 2
            top = into(m) / gone(b1, t - 1, p0)
            u = back(top / (np.sqrt(v / gone(b2, t - 1, p0)) + eps))
            if grams and np.any(v <= 1e-10 * v.max()) and v.any():
                u = u + np.nan
            if (t - 1) % every == 0:
                refresh()
            return u + decay * p

        return step

    return leafwise(leaf)


def shampoo(
    epsilon: float, every: int, b2: Any, graft: str | None, b1: float, corrected: bool,
    start: int,
) -> Start:  # fmt: skip
    """Shampoo (Gupta 2018, arXiv 1802.09568, algorithms 1 and 2).

    every: steps from one root to the next; b2: of averages in place of sums, which it has not;
    graft: the rule whose length a step then has (Anil 2020, arXiv 2002.09018): "sgd", "adagrad" or
    "adam". Shi 2023 (arXiv 2309.06497, algorithm 2) has b1, a filter of the gradient that is
    preconditioned; `corrected`, averages over 1 − β₂ᵗ with ε I added when the root is taken; and
    `start`, the first step with a root: before it the grafted rule's own. Of a scalar, which has no
    axis, the paper says nothing (NaN); grafted it gets the rule that lends the length. The lines of
    Shi's are those of the authors' program (github.com/facebookresearch/optimizers,
    distributed_shampoo); the numbers of the paper's equations were not to be seen.
    """

    def root(h: Any, order: int) -> Any:
        values, vectors = np.linalg.eigh(h)
        # matrix_inverse_root_from_eigendecomposition
        values = np.maximum(values, 0) + epsilon if corrected else np.maximum(values, epsilon)
        return (vectors * values ** (-1 / (2 * order))) @ vectors.T

    def leaf(p0: Any) -> Callable[..., Any]:
        k = np.ndim(p0)
        grams = [(not corrected) * epsilon * np.eye(n, dtype=p0.dtype) for n in np.shape(p0)]  # H₀
        roots: list[Any] = []
        m = squares = np.zeros_like(p0)

        def grafted(top: Any, g: Any, t: int) -> Any:
            nonlocal squares
            if graft == "adam":  # v̂ of Adam, β₂ the one of the matrices
                squares = b2 * squares + (1 - b2) * g * g
                return top / (np.sqrt(squares / gone(b2, t, g)) + epsilon)
            squares = squares + g * g
            return top / np.sqrt(np.where(squares > 0, squares, 1)) if graft == "adagrad" else top

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal roots, m
            m = b1 * m + (1 - b1) * g
            top = m / gone(b1, t, g)  # _compute_filtered_grad_list
            own = grafted(top, g, t)
            for i in range(k):
                others = [a for a in range(k) if a != i]
                new = np.tensordot(g, g, (others, others))  # L, R ← L + G Gᵀ, R + Gᵀ G
                grams[i] = grams[i] + new if b2 is None else b2 * grams[i] + (1 - b2) * new
            if t < start:
                return own
            if not k and graft is None:
                return np.full_like(p0, np.nan)
            if (t - start) % every == 0:
                by = gone(b2, t, g) if corrected else 1.0
                roots = [root(h / by, k) for h in grams]  # L^(−1/4), R^(−1/4); −1/(2k) for k axes
            u = top
            for i, h in enumerate(roots):
                u = np.moveaxis(np.tensordot(h, u, (1, i)), 0, i)  # L^(−1/4) G R^(−1/4)
            if graft is None or not np.any(u):
                return u
            return u * (np.linalg.norm(own) / np.linalg.norm(u))  # _precondition_and_grafting

        return step

    return leafwise(leaf)


def _rank(fraction: float, side: int) -> int:
    """The decimal fraction of a side, rounded up: 5 of .1 · 50, which is above 5 in floats."""
    return math.ceil(Fraction(str(fraction)) * side)


def dion(b1: float, fraction: float, first: Callable[[tuple[int, int], int], Any]) -> Start:
    """Dion (Ahn 2025, arXiv 2504.05295, algorithm 1) with the paper's X, [out, in].

    first: the first right factor, of a kernel's shape [in, out] and the rank, [in, rank]; the paper
    draws it. NaN where it leaves a step open: a column of R that is 0 has no direction.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        n, m = p0.shape
        q = np.asarray(first((n, m), _rank(fraction, min(n, m))), p0.dtype)
        momentum = np.zeros((m, n), p0.dtype)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal q, momentum
            b = momentum + g.T  # B_t = M_{t−1} + G_t
            left = np.linalg.qr(b @ q)[0]  # P_t = Orthogonalize(B_t Q_{t−1})
            r = b.T @ left  # R_t = B_tᵀ P_t
            momentum = b - (1 - b1) * left @ r.T  # M_t = B_t − (1 − μ) P_t R_tᵀ
            sizes = np.linalg.norm(r, axis=0)
            if np.any(sizes <= 1e-5 * sizes.max()):
                q = r + np.nan
                return np.full_like(p0, np.nan)
            q = r / sizes  # Q_t = ColumnNormalize(R_t)
            return (m / n) ** 0.5 * (left @ q.T).T  # X_t = X_{t−1} − η √(m/n) P_t Q_tᵀ

        return step

    return leafwise(leaf)


def matrices_and_others(matrix: Start, other: Start) -> Start:
    """One rule for leaves of rank 2, another for the rest."""
    return each(lambda p: matrix if np.ndim(p) == 2 else other)
