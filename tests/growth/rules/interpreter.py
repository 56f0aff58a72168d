"""Runs a jaxpr equation by equation: in NumPy where that is a word, otherwise by JAX.

Every shape that JAX is given is compiled, so that what NumPy can say it says.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.special
from jax.extend import core

UNARY = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "logistic": scipy.special.expit,
    "erf": scipy.special.erf, "erfc": scipy.special.erfc, "erf_inv": scipy.special.erfinv,
    "lgamma": scipy.special.gammaln, "digamma": scipy.special.digamma, "is_finite": np.isfinite,
    "floor": np.floor, "ceil": np.ceil, "bessel_i0e": scipy.special.i0e,
    "bessel_i1e": scipy.special.i1e, "neg": np.negative, "real": np.real, "imag": np.imag,
    "conj": np.conj, "sqrt": np.sqrt, "cbrt": np.cbrt, "square": np.square, "abs": np.abs,
    "sign": np.sign, "not": np.invert, "stop_gradient": lambda x: x, "copy": lambda x: x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
BINARY = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum,
    "min": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "pow": np.power, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "rem": np.fmod, "atan2": np.arctan2,
    "nextafter": np.nextafter, "igamma": scipy.special.gammainc, "igammac": scipy.special.gammaincc,
    "polygamma": lambda n, x: scipy.special.polygamma(n.astype(int), x),
    "zeta": scipy.special.zeta, "shift_left": np.left_shift,
    "shift_right_logical": np.right_shift, "shift_right_arithmetic": np.right_shift,
    "complex": lambda a, b: a + 1j * b, "eq_to": np.equal, "lt_to": np.less,
    "le_to": np.less_equal,
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min, "reduce_prod": np.prod,
    "reduce_and": np.all, "reduce_or": np.any,
}  # fmt: skip


def run(closed: core.ClosedJaxpr, args: list[np.ndarray]) -> list[np.ndarray]:
    """What a jaxpr gives."""
    env: dict[Any, np.ndarray] = {}
    jaxpr = closed.jaxpr
    env.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return (
            np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else env[atom]
        )

    for eqn in jaxpr.eqns:
        with np.errstate(all="ignore"):
            results = equation(eqn, [read(v) for v in eqn.invars])
        for var, result in zip(eqn.outvars, results, strict=True):
            assert result.shape == var.aval.shape, (eqn.primitive.name, result.shape, var.aval)
            env[var] = result
    return [read(v) for v in jaxpr.outvars]


def equation(eqn: core.JaxprEqn, ins: list[np.ndarray]) -> list[np.ndarray]:
    name, params = eqn.primitive.name, eqn.params
    if name in UNARY:
        return [np.asarray(UNARY[name](ins[0]))]
    if name in BINARY:
        return [np.asarray(BINARY[name](*ins))]
    if name in REDUCTIONS:
        return [np.asarray(REDUCTIONS[name](ins[0], axis=tuple(params["axes"])))]
    if name in SPECIAL:
        return [np.asarray(SPECIAL[name](params, *ins))]
    if name in SEVERAL:
        return SEVERAL[name](params, *ins)
    if name in BODIES:
        return run(_closed(params[BODIES[name]]), ins)
    if name in ("scan", "while", "cond"):
        return {"scan": _scan, "while": _while, "cond": _cond}[name](params, ins)
    out = eqn.primitive.bind(*ins, **params)
    return [np.asarray(x) for x in (out if eqn.primitive.multiple_results else [out])]


def _integer_pow(params, x):
    return x ** params["y"] if x.dtype.kind != "f" else x ** float(params["y"])


def _dot(params, a, b):
    (ca, cb), (ba, bb) = params["dimension_numbers"]
    names_a = list(range(a.ndim))
    names_b = [a.ndim + d for d in range(b.ndim)]
    for i, j in [*zip(ca, cb, strict=True), *zip(ba, bb, strict=True)]:
        names_b[j] = i
    out = [*ba, *(d for d in range(a.ndim) if d not in (*ca, *ba))]
    out += [names_b[d] for d in range(b.ndim) if d not in (*cb, *bb)]
    return np.einsum(a, names_a, b, names_b, out)


def _slice(params, x):
    steps = params["strides"] or (1,) * x.ndim
    ends = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return x[tuple(slice(*e) for e in ends)]


def _broadcast(params, x):
    shape = [1] * len(params["shape"])
    for d, o in enumerate(params["broadcast_dimensions"]):
        shape[o] = x.shape[d]
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _convert(params, x):
    return x.astype(params["new_dtype"])


def _round(params, x):
    away = int(params["rounding_method"]) == 0
    return np.sign(x) * np.floor(np.abs(x) + 0.5) if away else np.round(x)


def _div(params, a, b):
    return a / b if a.dtype.kind in "fc" else np.trunc(a / b).astype(a.dtype)


def _pad(params, x, value):
    for d, (low, high, inner) in enumerate(params["padding_config"]):
        x = np.moveaxis(x, d, 0)
        out = np.full((max(len(x) + (len(x) - 1) * inner, 0), *x.shape[1:]), value, x.dtype)
        out[:: inner + 1] = x
        out = out[max(-low, 0) : len(out) - max(-high, 0)]
        ends = [np.full((max(n, 0), *out.shape[1:]), value, x.dtype) for n in (low, high)]
        x = np.moveaxis(np.concatenate([ends[0], out, ends[1]]), 0, d)
    return x


def _accumulate(function):
    def run_along(params, x):
        d = params["axis"]
        x = np.flip(x, d) if params["reverse"] else x
        out = function(x, axis=d)
        return np.flip(out, d) if params["reverse"] else out

    return run_along


def _top_k(params, x):
    order = np.argsort(-x, -1, kind="stable")[..., : params["k"]]
    return [np.take_along_axis(x, order, -1), order.astype(np.int32)]


def _sort(params, *xs):
    order = np.argsort(xs[0], params["dimension"], kind="stable")
    return [np.take_along_axis(x, order, params["dimension"]) for x in xs]


def _split(params, x):
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _start(sizes, shape, starts):
    return [int(np.clip(s, 0, n - k)) for s, n, k in zip(starts, shape, sizes, strict=True)]


def _dynamic_slice(params, x, *starts):
    at = _start(params["slice_sizes"], x.shape, starts)
    return x[tuple(slice(a, a + n) for a, n in zip(at, params["slice_sizes"], strict=True))]


def _dynamic_update_slice(params, x, update, *starts):
    at = _start(update.shape, x.shape, starts)
    out = x.copy()
    out[tuple(slice(a, a + n) for a, n in zip(at, update.shape, strict=True))] = update
    return out


def _fft(params, x):
    kind = str(params["fft_type"]).rsplit(".", 1)[-1].lower()
    return {"fft": np.fft.fft, "0": np.fft.fft, "ifft": np.fft.ifft, "1": np.fft.ifft}[kind](x)


SEVERAL = {"top_k": _top_k, "sort": _sort, "split": _split}
SPECIAL = {
    "cumsum": _accumulate(np.cumsum), "cumprod": _accumulate(np.cumprod), "pad": _pad,
    "cummax": _accumulate(np.maximum.accumulate), "cummin": _accumulate(np.minimum.accumulate),
    "cumlogsumexp": _accumulate(np.logaddexp.accumulate), "fft": _fft,
    "dynamic_slice": _dynamic_slice, "dynamic_update_slice": _dynamic_update_slice,
    "tile": lambda p, x: np.tile(x, p["reps"]),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "cholesky": lambda p, x: np.linalg.cholesky(x),
    "integer_pow": _integer_pow, "dot_general": _dot, "slice": _slice, "div": _div,
    "broadcast_in_dim": _broadcast, "convert_element_type": _convert, "round": _round,
    "clamp": lambda p, low, x, high: np.minimum(np.maximum(x, low), high),
    "select_n": lambda p, which, *cases: np.choose(
        which.astype(int), np.broadcast_arrays(*cases), mode="clip"
    )
    if which.ndim else cases[int(which)],
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "transpose": lambda p, x: np.transpose(x, p["permutation"]),
    "squeeze": lambda p, x: np.squeeze(x, tuple(p["dimensions"])),
    "expand_dims": lambda p, x: np.expand_dims(x, tuple(p["dimensions"])),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "rev": lambda p, x: np.flip(x, tuple(p["dimensions"])),
    "iota": lambda p: np.broadcast_to(
        np.arange(p["shape"][p["dimension"]], dtype=p["dtype"]).reshape(
            [-1 if d == p["dimension"] else 1 for d in range(len(p["shape"]))]), p["shape"]),
    "argmax": lambda p, x: np.argmax(x, p["axes"][0]).astype(p["index_dtype"]),
    "argmin": lambda p, x: np.argmin(x, p["axes"][0]).astype(p["index_dtype"]),
    "regularized_incomplete_beta": lambda p, *xs: scipy.special.betainc(*xs),
    "reduce_xor": lambda p, x: np.bitwise_xor.reduce(x, tuple(p["axes"])),
    "reduce_precision": lambda p, x: x.astype(np.float32).astype(x.dtype)
    if p["mantissa_bits"] == 23 else x,
}  # fmt: skip
BODIES = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "shard_map": "jaxpr",
}  # fmt: skip


def _closed(jaxpr):
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def _scan(params, ins):
    from trainkit._core.compat import scan_counts

    consts, carries = scan_counts(params)
    fixed, carry, xs = ins[:consts], ins[consts : consts + carries], ins[consts + carries :]
    order = range(params["length"])
    rows: list = [None] * params["length"]
    for i in reversed(order) if params["reverse"] else order:
        out = run(_closed(params["jaxpr"]), [*fixed, *carry, *(x[i] for x in xs)])
        carry, rows[i] = out[:carries], out[carries:]
    stacked = [np.stack(column) for column in zip(*rows, strict=True)]
    return [*carry, *stacked]


def _while(params, ins):
    cond, body = params["cond_nconsts"], params["body_nconsts"]
    carry = ins[cond + body :]
    while run(_closed(params["cond_jaxpr"]), [*ins[:cond], *carry])[0]:
        carry = run(_closed(params["body_jaxpr"]), [*ins[cond : cond + body], *carry])
    return carry


def _cond(params, ins):
    which = int(np.clip(int(ins[0]), 0, len(params["branches"]) - 1))
    return run(_closed(params["branches"][which]), ins[1:])


def closed_jaxpr(fn, shapes) -> core.ClosedJaxpr:
    return jax.make_jaxpr(fn)(*shapes)
