"""Every rule of the catalogue, and what stands around rules, beside its reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit.transforms as tt
from tests.transforms import references as r
from trainkit import schedules
from trainkit.laws.oracles import papers

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
BETAS = (0.9, 0.999)
SOAP = r.chain(r.matrices.soap(0.95, 0.95, 1e-8, 7, decay=0.1), r.learning_rate(0.01))
ADAM = r.chain(r.adaptive.adam(*BETAS, 1e-8), r.learning_rate(0.01))


def descent(rate):
    return r.learning_rate(rate)


def adam(rate, eps=1e-8, **kind):
    return r.chain(r.adaptive.adam(*BETAS, eps, **kind), r.learning_rate(rate))


def warmed(rate, steps):
    return lambda count: rate * min(count / steps, 1)


def corrected(rate):
    """With Adam's bias correction of the second moment."""
    return lambda count: rate * (1 - BETAS[1] ** (count + 1)) ** 0.5


def decayed(rule, rate, decay=0.1):
    """The rule, decoupled decay, the learning rate."""
    return r.chain(rule, r.decay(decay), r.learning_rate(rate))


def rms(rate, eps, **kind):
    kind = {"inside": True} | kind
    return r.chain(r.accumulators.rms(0.9, eps, 0.0, **kind), r.learning_rate(rate))


def before(piece, rate=0.1):
    """A piece that changes gradients, then gradient descent."""
    return r.chain(piece, r.learning_rate(rate))


def soft_threshold(bound):
    """The update that ends at the threshold of where the step before it ends."""
    shrink = lambda x: np.sign(x) * np.maximum(np.abs(x) - bound, 0)
    return r.stateless(lambda u, p: shrink(p + u) - p)


def muon(rate, decay, adaptive=False, preconditioning="frobenius"):
    matrix = r.chain(
        r.matrices.muon(COEFFICIENTS, 5, 0.95, 1e-8, True, adaptive, preconditioning),
        r.matrices.by_shape(None),
    )
    return r.matrices.matrices_and_others(decayed(matrix, rate, decay), adam(rate, nesterov=True))


def adafactor(rate, smallest):
    return r.chain(
        r.accumulators.factored(True, 0.8, 0, smallest, 1e-30),
        r.norms.clip_block_rms(1.0),
        r.norms.param_block_rms(),
        r.learning_rate(rate),
    )


def first_factor(shape, rank):
    """What `tt.dion` draws for a kernel of this shape with its seed 0: data to the reference."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), shape[0]), shape[1])
    return np.asarray(jax.random.normal(key, (shape[0], rank), jnp.float32), np.float64)


def probe(t, shape):
    """What `tt.kron` draws at a step for a leaf of this shape with its seed 0."""
    key = jax.random.fold_in(jax.random.key(0), t)
    for n in shape:
        key = jax.random.fold_in(key, n)
    return np.asarray(jax.random.normal(key, shape, jnp.float32), np.float64)


# name -> (the rule, its oracle)
RULES = {
    "sgd": (lambda: tt.sgd(0.1), descent(0.1)),
    "sgd with momentum": (lambda: tt.sgd(0.1, 0.9), r.chain(r.trace(0.9), descent(0.1))),
    "momentum, sum": (lambda: tt.momentum(0.1, 0.8), r.chain(r.trace(0.8), descent(0.1))),
    "momentum, average": (
        lambda: tt.momentum(0.1, 0.8, "average"),
        r.chain(r.ema(0.8, debias=False), descent(0.1)),
    ),
    "nesterov": (lambda: tt.nesterov(0.1, 0.8), r.chain(r.trace(0.8, nesterov=True), descent(0.1))),
    "dynamic": (lambda: tt.dynamic_gd(0.3), descent(lambda t: 0.3 / (1 + np.sqrt(t)))),
    "adagrad": (lambda: tt.adagrad(0.1), before(r.accumulators.adagrad(0.1, 1e-7, inside=True))),
    "rmsprop": (lambda: tt.rmsprop(0.01), rms(0.01, 1e-8)),
    "rmsprop, centred": (
        lambda: tt.rmsprop(0.01, eps=1e-3, centered=True),
        rms(0.01, 1e-3, centred=True),
    ),
    "rmsprop, PyTorch's": (
        lambda: tt.rmsprop(0.01, eps=1e-5, eps_in_sqrt=False),
        rms(0.01, 1e-5, inside=False),
    ),
    "rmsprop with momentum": (
        lambda: tt.rmsprop(0.01, momentum=0.9),
        r.chain(rms(0.01, 1e-8), r.trace(0.9)),
    ),
    "adam": (lambda: tt.adam(0.01), adam(0.01)),
    "adamw": (
        lambda: tt.adamw(0.01, weight_decay=0.1),
        decayed(r.adaptive.adam(*BETAS, 1e-8), 0.01),
    ),
    "adam, coupled decay": (
        lambda: optax.chain(tt.l2(0.1), tt.adam(0.01)),
        r.chain(r.decay(0.1), adam(0.01)),
    ),
    "adam, decoupled decay": (
        lambda: optax.chain(tt.adam(0.01), tt.decoupled_weight_decay(0.01, 0.1)),
        decayed(r.adaptive.adam(*BETAS, 1e-8), 0.01),
    ),
    "lion": (lambda: tt.lion(0.01, weight_decay=0.1), decayed(r.adaptive.lion(0.9, 0.99), 0.01)),
    "l1": (
        lambda: optax.chain(tt.l1(0.2), tt.sgd(0.01)),
        before(r.stateless(lambda g, p: g + 0.2 * np.sign(p)), 0.01),
    ),
    "l2": (lambda: optax.chain(tt.l2(0.2), tt.sgd(0.01)), before(r.decay(0.2), 0.01)),
    "decoupled decay": (
        lambda: optax.chain(tt.sgd(0.1), tt.decoupled_weight_decay(0.1, 0.2)),
        r.chain(descent(0.1), r.decay(-0.02)),
    ),
    "soft threshold": (
        lambda: optax.chain(tt.sgd(0.1), tt.soft_threshold(0.1, 0.5)),
        r.chain(descent(0.1), soft_threshold(0.05)),
    ),
    "clip by value": (
        lambda: optax.chain(tt.clip_by_value(0.7), tt.sgd(0.1)),
        before(r.norms.clip(0.7)),
    ),
    "clip by norm": (
        lambda: optax.chain(tt.clip_by_norm(1.5), tt.sgd(0.1)),
        before(r.norms.clip_block_norm(1.5)),
    ),
    "clip by global norm": (
        lambda: optax.chain(tt.clip_by_global_norm(4.0), tt.sgd(0.1)),
        before(r.norms.clip_global_norm(4.0)),
    ),
    "clip adaptively": (
        lambda: optax.chain(tt.clip_adaptive(0.5), tt.sgd(0.1)),
        before(r.norms.adaptive_clip(0.5, 1e-3)),
    ),
    "centralised": (
        lambda: optax.chain(tt.centralize(), tt.sgd(0.1)),
        before(r.norms.centralize(outputs=-1)),
    ),
    "muon": (
        lambda: tt.muon(0.01, weight_decay=0.1),
        muon(0.01, 0.1),
    ),
    "muon, adaptive, by the spectral norm": (
        lambda: tt.muon(0.01, weight_decay=0.1, adaptive=True, preconditioning="spectral"),
        muon(0.01, 0.1, adaptive=True, preconditioning="spectral"),
    ),
    "adafactor": (
        lambda: tt.adafactor(0.02, min_dim_size_to_factor=3),
        adafactor(0.02, 3),
    ),
    "schedule-free": (
        lambda: tt.schedule_free(0.1),
        r.wrappers.schedule_free(descent(0.1), 0.1, 0.9, 2.0),
    ),
    "schedule-free, warmed up": (
        lambda: tt.schedule_free(schedules.warmup(schedules.constant(0.1), 10)),
        r.wrappers.schedule_free(descent(warmed(0.1, 10)), warmed(0.1, 10), 0.9, 2.0),
    ),
    "schedule-free adamw": (
        lambda: tt.schedule_free_adamw(0.02),
        r.wrappers.schedule_free(
            before(r.accumulators.rms(0.999, 1e-8, 0.0, inside=False), corrected(0.02)),
            corrected(0.02),
            0.9,
            2.0,
        ),
    ),
    "adabelief": (lambda: tt.adabelief(0.01), adam(0.01, 1e-16, eps_root=1e-16, belief=True)),
    "adadelta": (lambda: tt.adadelta(0.5), before(r.accumulators.adadelta(0.9, 1e-6), 0.5)),
    "adamax": (lambda: tt.adamax(0.01), adam(0.01, infinity=True)),
    "amsgrad": (lambda: tt.amsgrad(0.01), adam(0.01, maximum=True, correct=(False, False))),
    "nadam": (lambda: tt.nadam(0.01), adam(0.01, nesterov=True)),
    "nadamw": (
        lambda: tt.nadamw(0.01, weight_decay=0.1),
        decayed(r.adaptive.adam(*BETAS, 1e-8, nesterov=True), 0.01),
    ),
    "radam": (lambda: tt.radam(0.01), adam(0.01, rectify=4.0)),
    "yogi": (lambda: tt.yogi(0.01), before(r.adaptive.yogi(*BETAS, 1e-3, 0.0, 1e-6), 0.01)),
    "novograd": (
        lambda: tt.novograd(0.01, weight_decay=0.1),
        before(r.adaptive.novograd(0.9, 0.25, 1e-6, 0.0, 0.1), 0.01),
    ),
    "mars": (
        lambda: tt.mars(0.01, weight_decay=0.1),
        papers.mars(0.01, weight_decay=0.1),
    ),
    "adam-mini": (
        lambda: tt.adam_mini(0.01, weight_decay=0.1),
        papers.adam_mini(0.01, weight_decay=0.1),
    ),
    "normuon": (
        lambda: tt.normuon(0.01, weight_decay=0.1),
        papers.normuon(0.01, weight_decay=0.1),
    ),
    "scion": (lambda: tt.scion(0.05, radius=2.0), papers.scion(0.05, radius=2.0)),
    # With an ε above float32's rounding of the largest eigenvalue, as a leaf may have more entries
    # than there were gradients at the first root.
    "shampoo": (
        lambda: tt.shampoo(0.01, eps=1e-2, weight_decay=0.1, precondition_frequency=7),
        papers.shampoo(
            0.01, 1e-2, 7, 0.999, "adam", b1=0.9, corrected=True, start=7, weight_decay=0.1
        ),
    ),
    "shampoo, as it was at first": (
        lambda: tt.shampoo(0.1, b1=0.0, eps=1e-2, sums=True, graft=None, precondition_frequency=1),
        papers.shampoo(0.1, 1e-2),
    ),
    "shampoo, of Adagrad's lengths": (
        lambda: tt.shampoo(
            0.1, 0.5, eps=1e-2, sums=True, graft="adagrad", start_preconditioning_step=8
        ),
        papers.shampoo(0.1, 1e-2, 10, graft="adagrad", b1=0.5, start=8),
    ),
    "shampoo, of the gradient's length": (
        lambda: tt.shampoo(
            0.1, 0.5, 0.9, 1e-2, graft="sgd", precondition_frequency=2, start_preconditioning_step=8
        ),
        papers.shampoo(0.1, 1e-2, 2, 0.9, "sgd", b1=0.5, corrected=True, start=8),
    ),
    "dion": (
        lambda: tt.dion(0.01, weight_decay=0.1, rank_fraction=0.5),
        papers.dion(0.01, first_factor, weight_decay=0.1, rank_fraction=0.5),
    ),
    "dion, of full rank": (
        lambda: tt.dion(0.01, 0.9, rank_fraction=1.0),
        papers.dion(0.01, first_factor, 0.9, rank_fraction=1.0),
    ),
    "kron": (
        lambda: tt.kron(0.01, weight_decay=0.1),
        papers.kron(0.01, probe, weight_decay=0.1),
    ),
    "kron, partly diagonal, now and then": (
        lambda: tt.kron(
            0.01, 0.5, precond_learning_rate=0.05, precondition_frequency=3, max_precond_dim=3
        ),
        papers.kron(
            0.01,
            probe,
            0.5,
            precond_learning_rate=0.05,
            precondition_frequency=3,
            max_precond_dim=3,
        ),
    ),
    "lamb": (
        lambda: tt.lamb(0.01, weight_decay=0.1),
        r.chain(r.adaptive.adam(*BETAS, 1e-6), r.decay(0.1), r.norms.trust_ratio(), descent(0.01)),
    ),
    "lars": (
        lambda: tt.lars(0.5, weight_decay=0.1),
        r.chain(r.norms.lars(0.001, 0.0, 0.1, None, None), descent(0.5), r.trace(0.9)),
    ),
    # What stands around a rule.
    "a schedule": (
        lambda: tt.sgd(schedules.warmup(schedules.inverse_sqrt(0.1, 20), 10)),
        descent(lambda t: 0.1 * t / 10 if t < 10 else 0.1 / np.sqrt(1 + (t - 10) / 20)),
    ),
    "names": (
        lambda: tt.named(clip=tt.clip_by_global_norm(4.0), sgd=tt.sgd(0.1)),
        before(r.norms.clip_global_norm(4.0)),
    ),
    "groups": (
        lambda: tt.groups([("w", tt.adam(0.01)), ("[vz]", tt.sgd(0.1, 0.9)), (".*", None)]),
        r.parted(
            {
                "w": adam(0.01),
                "v": r.chain(r.trace(0.9), descent(0.1)),
                "z": r.chain(r.trace(0.9), descent(0.1)),
                "s": descent(0.0),
            }
        ),
    ),
    "layer-wise decay": (
        lambda: optax.chain(tt.sgd(0.1), tt.layerwise_decay(["w", "v|z", "s"], 0.5)),
        r.parted(
            {
                "w": descent(0.025),
                "v": descent(0.05),
                "z": descent(0.05),
                "s": descent(0.1),
            }
        ),
    ),
    "unfreezing": (
        lambda: tt.gradual_unfreezing(tt.sgd(0.1), [("w", 50), (".*", 0)]),
        r.parted(
            {
                "w": descent(lambda t: 0.1 * (t >= 50)),
                **dict.fromkeys("vzs", descent(0.1)),
            }
        ),
    ),
    "accumulated": (
        lambda: tt.accumulate(tt.adam(0.01), 4),
        r.wrappers.multi_steps(ADAM, 4, True, None),
    ),
    "guarded": (
        lambda: tt.skip_nonfinite(tt.adam(0.01)),
        adam(0.01),
    ),
    "cautious": (
        lambda: tt.cautious(tt.sgd(0.1, 0.9)),
        r.wrappers.cautious(r.chain(r.trace(0.9), descent(0.1)), 1.0),
    ),
    "lookahead": (
        lambda: tt.lookahead(tt.adam(0.01), 6, 0.3),
        r.wrappers.lookahead(ADAM, r.wrappers.toward(0.3), 6),
    ),
    "lookahead, DiLoCo's outer step": (
        lambda: tt.lookahead(tt.adam(0.01), 6, outer=tt.nesterov(0.7, 0.9)),
        r.wrappers.lookahead(ADAM, r.chain(r.trace(0.9, nesterov=True), descent(0.7)), 6),
    ),
    "averaged": (
        lambda: tt.average_params(tt.adam(0.01)),
        adam(0.01),
    ),
}


def draws(key):
    """The noise that a rule with this key draws, leaf after leaf and step after step."""

    def draw(t, shapes, dtype):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(key), t), len(shapes))
        return [
            np.asarray(jax.random.normal(one, shape, dtype), np.float64)
            for one, shape in zip(keys, shapes, strict=True)
        ]

    return draw


def noisy(dtype):
    """Rules with noise: what is drawn is data to the references, in the dtype it is drawn in."""
    draw = lambda t, shapes: draws(3)(t, shapes, jnp.dtype(dtype))
    added = lambda g, p, n, t: g + np.sqrt(0.3 / (1 + t) ** 0.55) * n
    rate, data, prior = 1e-3, 20, 2.0
    langevin = lambda g, p, n, t: -rate / 2 * (data * g + prior * p) + np.sqrt(rate) * n
    return {
        "gradient noise": (
            lambda: optax.chain(tt.gradient_noise(0.3, key=3), tt.sgd(0.1)),
            before(r.with_draws(added, draw)),
        ),
        "sgld": (
            lambda: tt.sgld(rate, num_data=data, prior=prior, key=3),
            r.with_draws(langevin, draw),
        ),
    }
