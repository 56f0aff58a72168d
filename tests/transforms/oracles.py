"""The rules once more, in float64 NumPy, written from their papers; nothing of the package here.

An oracle is a generator function `(p, …)`: it is sent one gradient after the other and yields the
parameters after each. Parameters and gradients are dicts of arrays.
"""

# ruff: noqa: B023 - the functions in these loops are called where they stand, within the iteration

import numpy as np


def tree(f, *trees):
    return {k: np.asarray(f(*(t[k] for t in trees)), np.float64) for k in trees[0]}


def zeros(p):
    return tree(np.zeros_like, p)


def run(oracle, params, gradients):
    """The parameters after each of the gradients."""
    out, stepper = [], oracle(params)
    next(stepper)
    for g in gradients:
        out.append(stepper.send(g))
        next(stepper)
    return out


def descent(rate):
    def go(p):
        t = 0
        while True:
            g = yield
            eta = rate(t) if callable(rate) else rate
            p = tree(lambda p, g: p - eta * g, p, g)
            t += 1
            yield p

    return go


def momentum(rate, beta, fresh, nesterov=False):
    def go(p):
        v = zeros(p)
        while True:
            g = yield
            v = tree(lambda v, g: beta * v + fresh * g, v, g)
            step = tree(lambda v, g: g + beta * v, v, g) if nesterov else v
            p = tree(lambda p, s: p - rate * s, p, step)
            yield p

    return go


def adagrad(rate, start, eps):
    def go(p):
        acc = tree(lambda x: np.full_like(x, start), p)
        while True:
            g = yield
            acc = tree(lambda a, g: a + g * g, acc, g)
            p = tree(lambda p, g, a: p - rate * g / np.sqrt(a + eps), p, g, acc)
            yield p

    return go


def rmsprop(rate, decay, eps, centered=False, inside=True, beta=None):
    def go(p):
        nu, mu, v = zeros(p), zeros(p), zeros(p)
        while True:
            g = yield
            nu = tree(lambda n, g: decay * n + (1 - decay) * g * g, nu, g)
            mu = tree(lambda m, g: decay * m + (1 - decay) * g, mu, g)
            var = tree(lambda n, m: n - m * m, nu, mu) if centered else nu
            root = (lambda x: np.sqrt(x + eps)) if inside else (lambda x: np.sqrt(x) + eps)
            u = tree(lambda g, x: g / root(x), g, var)
            if beta is not None:
                v = u = tree(lambda v, u: beta * v + rate * u, v, u)
                p = tree(lambda p, u: p - u, p, u)
            else:
                p = tree(lambda p, u: p - rate * u, p, u)
            yield p

    return go


def adam(rate, b1, b2, eps, decay=0.0, coupled=0.0):
    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            g = tree(lambda g, p: g + coupled * p, g, p)
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
            p = tree(
                lambda p, m, n: (
                    p - rate * (m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps) + decay * p)
                ),
                p,
                mu,
                nu,
            )
            yield p

    return go


def lion(rate, b1, b2, decay):
    def go(p):
        mu = zeros(p)
        while True:
            g = yield
            p = tree(
                lambda p, m, g: p - rate * (np.sign(b1 * m + (1 - b1) * g) + decay * p), p, mu, g
            )
            mu = tree(lambda m, g: b2 * m + (1 - b2) * g, mu, g)
            yield p

    return go


def penalised(rate, l1=0.0, l2=0.0, decoupled=0.0):
    def go(p):
        while True:
            g = yield
            p = tree(lambda p, g: (1 - decoupled) * p - rate * (g + l1 * np.sign(p) + l2 * p), p, g)
            yield p

    return go


def proximal(rate, strength):
    def go(p):
        while True:
            g = yield
            x = tree(lambda p, g: p - rate * g, p, g)
            p = tree(lambda x: np.sign(x) * np.maximum(np.abs(x) - rate * strength, 0), x)
            yield p

    return go


def clipped(rate, clip):
    def go(p):
        while True:
            g = yield
            g = clip(g, p)
            p = tree(lambda p, g: p - rate * g, p, g)
            yield p

    return go


def clip_value(c):
    return lambda g, p: tree(lambda g: np.minimum(np.maximum(g, -c), c), g)


def clip_leaf(c):
    return lambda g, p: tree(lambda g: g / max(1.0, np.sqrt(np.sum(g * g)) / c), g)


def clip_global(c):
    def clip(g, p):
        norm = np.sqrt(sum(np.sum(x * x) for x in g.values()))
        return tree(lambda g: g * min(1.0, c / norm), g)

    return clip


def clip_adaptive(c, eps):
    def one(g, p):
        axis = tuple(range(g.ndim - 1)) if g.ndim > 1 else None
        gn = np.sqrt(np.sum(g * g, axis=axis, keepdims=True))
        pn = np.sqrt(np.sum(p * p, axis=axis, keepdims=True))
        bound = c * np.maximum(pn, eps)
        return (g / np.maximum(1.0, gn / bound)).reshape(g.shape)

    return lambda g, p: tree(one, g, p)


def centralised(rate):
    def one(g):
        return g - g.mean(axis=tuple(range(g.ndim - 1)), keepdims=True) if g.ndim > 1 else g

    return clipped(rate, lambda g, p: tree(one, g))


def muon(rate, coefficients, steps, beta, eps, b1, b2, decay=0.0):
    a, b, c = coefficients

    def newton_schulz(x):
        turned = x.shape[0] > x.shape[1]
        x = x.T if turned else x
        x = x / (np.linalg.norm(x) + eps)
        for _ in range(steps):
            s = x @ x.T
            x = a * x + (b * s + c * s @ s) @ x
        return x.T if turned else x

    def go(p):
        mu, t = zeros(p), 0
        adam_nesterov = {k: (np.zeros_like(v), np.zeros_like(v)) for k, v in p.items()}
        while True:
            g = yield
            t += 1
            new = {}
            for k in p:
                if p[k].ndim == 2:
                    mu[k] = beta * mu[k] + (1 - beta) * g[k]
                    hat = beta * mu[k] / (1 - beta ** (t + 1)) + (1 - beta) * g[k] / (1 - beta**t)
                    o = newton_schulz(hat) * np.sqrt(max(1, p[k].shape[1] / p[k].shape[0]))
                    new[k] = p[k] - rate * (o + decay * p[k])
                else:
                    m, n = adam_nesterov[k]
                    m = b1 * m + (1 - b1) * g[k]
                    n = b2 * n + (1 - b2) * g[k] ** 2
                    adam_nesterov[k] = m, n
                    hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g[k] / (1 - b1**t)
                    new[k] = p[k] - rate * hat / (np.sqrt(n / (1 - b2**t)) + eps)
            p = new
            yield p

    return go


def adafactor(rate, power, eps, clip, least):
    def go(p):
        t = 0
        rows = dict.fromkeys(p, 0.0)
        cols = dict.fromkeys(p, 0.0)
        full = dict.fromkeys(p, 0.0)
        while True:
            g = yield
            t += 1
            b = 1 - t ** (-power)
            new = {}
            for k in p:
                s = g[k] ** 2 + eps
                if p[k].ndim == 2 and min(p[k].shape) >= least:
                    rows[k] = b * rows[k] + (1 - b) * s.mean(axis=1)
                    cols[k] = b * cols[k] + (1 - b) * s.mean(axis=0)
                    v = np.outer(rows[k], cols[k]) / rows[k].mean()
                else:
                    v = full[k] = b * full[k] + (1 - b) * s
                u = g[k] / np.sqrt(v)
                size = max(u.size, 1)
                u = u / max(1.0, np.sqrt(np.sum(u**2) / size) / clip)
                scale = max(np.sqrt(np.sum(p[k] ** 2) / size), 1e-3)
                new[k] = p[k] - rate * scale * u
            p = {k: np.asarray(v) for k, v in new.items()}
            yield p

    return go


def schedule_free(rate, b1, power=2.0, b2=None, eps=1e-8):
    """In x, y and z, the parameters being y."""

    def go(p):
        z, x, y, total, t, nu = p, p, p, 0.0, 0, zeros(p)
        while True:
            g = yield
            t += 1
            if b2 is not None:
                nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
                g = tree(lambda g, n: g / (np.sqrt(n / (1 - b2**t)) + eps), g, nu)
            z = tree(lambda z, g: z - rate * g, z, g)
            total += rate**power
            c = rate**power / total
            x = tree(lambda x, z: (1 - c) * x + c * z, x, z)
            y = tree(lambda x, z: b1 * x + (1 - b1) * z, x, z)
            yield y

    return go


def adabelief(rate, b1, b2, eps, eps_root):
    """The paper's second moment, of g − μ; its ε inside is added at every step."""

    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, m, g: b2 * n + (1 - b2) * (g - m) ** 2 + eps_root, nu, mu, g)
            p = tree(
                lambda p, m, n: p - rate * m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps),
                p,
                mu,
                nu,
            )
            yield p

    return go


def adadelta(rate, rho, eps):
    def go(p):
        squares, moves = zeros(p), zeros(p)
        while True:
            g = yield
            squares = tree(lambda s, g: rho * s + (1 - rho) * g * g, squares, g)
            u = tree(lambda g, s, m: g * np.sqrt((m + eps) / (s + eps)), g, squares, moves)
            moves = tree(lambda m, u: rho * m + (1 - rho) * u * u, moves, u)
            p = tree(lambda p, u: p - rate * u, p, u)
            yield p

    return go


def adamax(rate, b1, b2, eps):
    def go(p):
        mu, largest, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            largest = tree(lambda x, g: np.maximum(b2 * x, np.abs(g) + eps), largest, g)
            p = tree(lambda p, m, x: p - rate * m / (1 - b1**t) / x, p, mu, largest)
            yield p

    return go


def amsgrad(rate, b1, b2, eps):
    def go(p):
        mu, nu, largest, t = zeros(p), zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
            largest = tree(lambda x, n: np.maximum(x, n / (1 - b2**t)), largest, nu)
            p = tree(
                lambda p, m, x: p - rate * m / (1 - b1**t) / (np.sqrt(x) + eps), p, mu, largest
            )
            yield p

    return go


def nadam(rate, b1, b2, eps, decay=0.0):
    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
            hat = tree(
                lambda m, g: b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t), mu, g
            )
            p = tree(
                lambda p, h, n: p - rate * (h / (np.sqrt(n / (1 - b2**t)) + eps) + decay * p),
                p,
                hat,
                nu,
            )
            yield p

    return go


def radam(rate, b1, b2, eps, least=5.0):
    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        top = 2 / (1 - b2) - 1
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
            rho = top - 2 * t * b2**t / (1 - b2**t)
            u = tree(lambda m: m / (1 - b1**t), mu)
            if rho >= least:
                r = np.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
                u = tree(lambda u, n: r * u / (np.sqrt(n / (1 - b2**t)) + eps), u, nu)
            p = tree(lambda p, u: p - rate * u, p, u)
            yield p

    return go


def yogi(rate, b1, b2, eps, start=1e-6):
    def go(p):
        mu = tree(lambda x: np.full_like(x, start), p)
        nu, t = mu, 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: n - (1 - b2) * np.sign(n - g * g) * g * g, nu, g)
            p = tree(
                lambda p, m, n: p - rate * m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps),
                p,
                mu,
                nu,
            )
            yield p

    return go


def novograd(rate, b1, b2, eps, decay):
    def go(p):
        mu, nu, t = zeros(p), {}, 0
        while True:
            g = yield
            squares = {k: np.sum(v * v) for k, v in g.items()}
            nu = {k: b2 * nu[k] + (1 - b2) * s if t else s for k, s in squares.items()}
            mu = {k: b1 * mu[k] + g[k] / (np.sqrt(nu[k]) + eps) + decay * p[k] for k in p}
            t += 1
            p = tree(lambda p, m: p - rate * m, p, mu)
            yield p

    return go


def ratio(p, u):
    """‖p‖/‖u‖, or 1 where one of them is 0."""
    a, b = np.sqrt(np.sum(p * p)), np.sqrt(np.sum(u * u))
    return a / b if a > 0 and b > 0 else 1.0


def lamb(rate, b1, b2, eps, decay):
    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            nu = tree(lambda n, g: b2 * n + (1 - b2) * g * g, nu, g)
            u = tree(
                lambda p, m, n: m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps) + decay * p,
                p,
                mu,
                nu,
            )
            p = tree(lambda p, u: p - rate * ratio(p, u) * u, p, u)
            yield p

    return go


def lars(rate, beta, trust, decay):
    """The ratio before the momentum, as in the paper, and the rate inside it."""

    def scaled(p, u):
        r = ratio(p, u)
        return u if r == 1.0 else trust * r * u

    def go(p):
        v = zeros(p)
        while True:
            g = yield
            u = tree(lambda g, p: g + decay * p, g, p)
            v = tree(lambda v, p, u: beta * v + rate * scaled(p, u), v, p, u)
            p = tree(lambda p, v: p - v, p, v)
            yield p

    return go


def parted(oracles):
    """Each leaf by a rule of its own."""

    def go(p):
        each = {k: oracles[k]({k: v}) for k, v in p.items()}
        for stepper in each.values():
            next(stepper)
        while True:
            g = yield
            p = {}
            for k, stepper in each.items():
                p |= stepper.send({k: g[k]})
                next(stepper)
            yield p

    return go


def accumulated(oracle, every):
    """One step of the rule by the mean of so many gradients; none in between."""

    def go(p):
        stepper, held = oracle(p), []
        next(stepper)
        while True:
            g = yield
            held.append(g)
            if len(held) == every:
                p = stepper.send({k: np.mean([h[k] for h in held], axis=0) for k in p})
                next(stepper)
                held = []
            yield p

    return go


def noisy(rate, deviation, draw):
    def go(p):
        t = 0
        while True:
            g = yield
            n = draw(t, {k: v.shape for k, v in p.items()})
            p = tree(lambda p, g, n: p - rate * (g + deviation(t) * n), p, g, n)
            t += 1
            yield p

    return go


def langevin(rate, num_data, prior, draw):
    def go(p):
        t = 0
        while True:
            g = yield
            n = draw(t, {k: v.shape for k, v in p.items()})
            p = tree(
                lambda p, g, n: p - rate / 2 * (num_data * g + prior * p) + np.sqrt(rate) * n,
                p,
                g,
                n,
            )
            t += 1
            yield p

    return go


def soap(rate, b1, b2, eps, every, decay=0.0):
    """In the words of the paper's algorithm 3, with the authors' skipped first step."""

    def turn(x, qs, back=False):
        q, r = qs
        return q @ x @ r.T if back else q.T @ x @ r

    def go(p):
        mu, nu, t = zeros(p), zeros(p), 0
        gg = {
            k: (np.zeros((v.shape[0],) * 2), np.zeros((v.shape[1],) * 2))
            for k, v in p.items()
            if v.ndim == 2
        }
        qs = {}
        while True:
            g = yield
            for k in gg:
                left, right = gg[k]
                gg[k] = (
                    b2 * left + (1 - b2) * g[k] @ g[k].T,
                    b2 * right + (1 - b2) * g[k].T @ g[k],
                )
            if t == 0:
                qs = {k: tuple(np.linalg.eigh(m)[1][:, ::-1] for m in gg[k]) for k in gg}
                t = 1
                yield p
                continue
            new = {}
            for k in p:
                mu[k] = b1 * mu[k] + (1 - b1) * g[k]
                rotated = turn(g[k], qs[k]) if k in gg else g[k]
                nu[k] = b2 * nu[k] + (1 - b2) * rotated**2
                m = turn(mu[k], qs[k]) if k in gg else mu[k]
                u = (m / (1 - b1**t)) / (np.sqrt(nu[k] / (1 - b2**t)) + eps)
                u = turn(u, qs[k], back=True) if k in gg else u
                new[k] = p[k] - rate * (u + decay * p[k])
            if t % every == 0:
                for k in gg:
                    both = []
                    for axis, (m, q) in enumerate(zip(gg[k], qs[k], strict=True)):
                        order = np.argsort(-np.diag(q.T @ m @ q))
                        nu[k] = np.take(nu[k], order, axis)
                        both.append(np.linalg.qr(m @ q[:, order])[0])
                    qs[k] = tuple(both)
            p = new
            t += 1
            yield p

    return go


def sophia(rate, b1, b2, eps, gamma, clip, every, decay, hessian):
    """On a function whose Hessian is the diagonal `hessian`: the estimate is then exact."""
    at = hessian if callable(hessian) else lambda p: hessian

    def go(p):
        mu, h, t = zeros(p), zeros(p), 0
        while True:
            g = yield
            t += 1
            mu = tree(lambda m, g: b1 * m + (1 - b1) * g, mu, g)
            u = tree(
                lambda m, h: np.clip(m / (1 - b1**t) / np.maximum(gamma * h, eps), -clip, clip),
                mu,
                h,
            )
            if (t - 1) % every == 0:
                h = tree(lambda h, d: b2 * h + (1 - b2) * d, h, at(p))
            p = tree(lambda p, u: p - rate * (u + decay * p), p, u)
            yield p

    return go


def lbfgs(rate, memory):
    """The two-loop recursion on the concatenated vector."""

    def flat(t):
        return np.concatenate([np.ravel(t[k]) for k in sorted(t)])

    def unflat(x, like):
        out, at = {}, 0
        for k in sorted(like):
            out[k] = x[at : at + like[k].size].reshape(like[k].shape)
            at += like[k].size
        return out

    def go(p):
        pairs, last = [], None
        while True:
            g = yield
            x, y = flat(p), flat(g)
            if last is not None:
                s, d = x - last[0], y - last[1]
                pairs = [*pairs, (s, d, 1 / (d @ s) if d @ s != 0 else 0.0)][-memory:]
            q, alphas = y.copy(), []
            for s, d, rho in reversed(pairs):
                alpha = rho * (s @ q)
                alphas.append(alpha)
                q = q - alpha * d
            if pairs:
                s, d, _ = pairs[-1]
                q = q * ((s @ d) / (d @ d))
            else:
                q = q * min(1.0, 1.0 / np.linalg.norm(y))
            for (s, d, rho), alpha in zip(pairs, reversed(alphas), strict=True):
                q = q + (alpha - rho * (d @ q)) * s
            last = x, y
            p = unflat(x - rate * q, p)
            yield p

    return go


def newton(rate, damping, matrix_of):
    """By a direct solve with the dense matrix."""

    def go(p):
        while True:
            g = yield
            x, y = p["w"], g["w"]
            a = matrix_of(x)
            p = {"w": x - rate * np.linalg.solve(a + damping * np.eye(len(x)), y)}
            yield p

    return go


def newton_diagonal(rate, damping, diagonal):
    def go(p):
        while True:
            g = yield
            p = tree(lambda p, g, d: p - rate * g / (d + damping), p, g, diagonal(p))
            yield p

    return go
