"""Stochastic rounding, 8-bit moments, and states that keep their dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt

RULES = {
    "sgd": lambda: tt.sgd(0.1, 0.9),
    "adagrad": lambda: tt.adagrad(0.1),
    "rmsprop": lambda: tt.rmsprop(0.1, centered=True),
    "adam": lambda: tt.adam(0.1),
    "adamw": lambda: tt.adamw(0.1),
    "adamw, ν in bfloat16": lambda: tt.adamw(0.1, nu_dtype="bfloat16"),
    "mars": lambda: tt.mars(0.1),
    "adam_mini": lambda: tt.adam_mini(0.1),
    "normuon": lambda: tt.normuon(0.1),
    "shampoo": lambda: tt.shampoo(0.1, precondition_frequency=2),
    "kron": lambda: tt.kron(0.1),
    "dion": lambda: tt.dion(0.1),
    "scion": lambda: tt.scion(0.1),
    "lion": lambda: tt.lion(0.1),
    "muon": lambda: tt.muon(0.1),
    "adafactor": lambda: tt.adafactor(0.1, min_dim_size_to_factor=2),
    "schedule_free": lambda: tt.schedule_free_adamw(0.1),
    "soap": lambda: tt.soap(0.1),
    "lbfgs": lambda: tt.lbfgs(0.1, linesearch=None),
    "dynamic": lambda: tt.dynamic_gd(0.1),
    "sgld": lambda: tt.sgld(0.1),
    "noise": lambda: tt.gradient_noise(0.1),
    "clips": lambda: tt.chain(tt.clip_adaptive(0.1), tt.clip_by_global_norm(1.0)),
    "penalties": lambda: tt.chain(tt.l1(0.1), tt.l2(0.1), tt.soft_threshold(0.1, 0.1)),
    "accumulate": lambda: tt.accumulate(tt.adam(0.1), 2),
    "quantised": lambda: tt.quantise_moments(tt.adam(0.1), min_size=1),
    "cautious": lambda: tt.cautious(tt.adam(0.1)),
    "lookahead": lambda: tt.lookahead(tt.adam(0.1), 2, outer=tt.nesterov(0.7, 0.9)),
    "average": lambda: tt.average_params(tt.adam(0.1)),
}
SHAPES = {"w": (4, 3), "b": (3,), "s": (), "z": (0,)}


def kinds(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), x.weak_type), tree)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("p_dtype", "g_dtype"),
    [
        ("bfloat16", "bfloat16"),
        pytest.param("float32", "bfloat16", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float32", marks=pytest.mark.slow),
        pytest.param("float16", "float16", marks=pytest.mark.slow),
    ],
)
def test_the_state_is_a_fixpoint_and_updates_have_the_gradients_dtypes(name, p_dtype, g_dtype):
    tx = RULES[name]()
    params = {k: jnp.full(s, 0.5, p_dtype) for k, s in SHAPES.items()}
    start = tx.init(params)
    assert kinds(start) == kinds(jax.eval_shape(tx.init, params))

    @jax.jit
    def three(state, g):  # scanning asks for the fixpoint
        def step(s, _):
            u, s = tx.update(g, s, params)
            return s, u

        return jax.lax.scan(step, state, None, length=3)

    ones = {k: jnp.full(s, 0.25, g_dtype) for k, s in SHAPES.items()}
    state, updates = three(start, ones)
    assert kinds(state) == kinds(start)
    assert all(u.dtype == jnp.dtype(g_dtype) for u in jax.tree.leaves(updates))
    # Zero gradients, then and after, leave everything finite.
    state, updates = three(start, jax.tree.map(jnp.zeros_like, ones))
    _, after = three(state, ones)
    for u in (*jax.tree.leaves(updates), *jax.tree.leaves(after)):
        assert bool(jnp.isfinite(u).all())


@pytest.mark.parametrize("name", RULES)
def test_state_and_parameters_can_both_be_donated(name):
    tx = RULES[name]()
    for _ in range(2):  # the second time what the first has donated must not be missing
        params = {k: jnp.full(s, 0.5) for k, s in SHAPES.items()}
        state = tx.init(params)
        buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, params)) if x.size]
        assert len(buffers) == len(set(buffers))
        for leaf in jax.tree.leaves((state, params)):
            leaf.delete()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounding_is_unbiased_and_to_neighbours(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=64) * 10.0 ** rng.integers(-3, 3, 64), jnp.float32)
    n = 4000
    rounded = jax.vmap(lambda k: tt.stochastic_round(x, dtype, k))(
        jax.random.split(jax.random.key(0), n)
    ).astype(jnp.float32)
    gap = jnp.max(rounded, axis=0) - jnp.min(rounded, axis=0)
    assert bool((jnp.abs(rounded - x) <= gap).all())
    # Five standard errors of a mean of n draws that are a gap apart.
    assert bool((jnp.abs(rounded.mean(axis=0) - x) <= 5 * 0.5 * gap / n**0.5 + 1e-7).all())
    exact = jnp.array([0.0, 1.0, -2.5, jnp.inf, -jnp.inf], jnp.float32)
    same = tt.stochastic_round(exact, dtype, jax.random.key(1)).astype(jnp.float32)
    assert same.tolist() == exact.tolist()
    assert jnp.isnan(tt.stochastic_round(jnp.float32(jnp.nan), dtype, jax.random.key(1)))


def test_small_steps_arrive_in_bfloat16():
    """1 − 1000 · 10⁻³: rounded to nearest it stays 1, at random it comes to 0 in the mean."""
    params = {"w": jnp.ones(512, jnp.bfloat16), "v": jnp.ones(4)}
    g = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), params)
    tx = tt.stochastic_rounding(tt.sgd(1.0))

    @jax.jit
    def run(params, state):
        def step(carry, _):
            p, s = carry
            u, s = tx.update(g, s, p)
            with jax.numpy_dtype_promotion("standard"):
                return (tt.apply_updates(p, u), s), None

        return jax.lax.scan(step, (params, state), None, length=1000)[0]

    end, state = run(params, tx.init(params))
    step = float(g["w"][0].astype(jnp.float32))  # what bfloat16 makes of 10⁻³
    assert end["w"].dtype == jnp.bfloat16
    assert float(end["w"].astype(jnp.float32).mean()) == pytest.approx(1 - 1000 * step, abs=0.01)
    assert jnp.allclose(end["v"], 0.0, atol=1e-4)
    nearest = params["w"]
    for _ in range(3):
        nearest = nearest - g["w"]
    assert nearest.tolist() == params["w"].tolist()
    assert int(state.count) == 1000


def test_the_update_gives_exactly_the_rounded_result():
    rng = np.random.default_rng(1)
    p = jnp.asarray(rng.normal(size=1000), jnp.bfloat16)
    u = jnp.asarray(rng.normal(size=1000) * 10.0 ** rng.integers(-6, 6, 1000), jnp.float32)
    tx = tt.stochastic_rounding(tt.sgd(1.0))
    out, _ = tx.update(-u, tx.init(p), p)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 1)[0]
    expected = tt.stochastic_round(p.astype(jnp.float32) + u, jnp.bfloat16, key)
    assert (p.astype(jnp.float32) + out).astype(jnp.bfloat16).tolist() == expected.tolist()


@pytest.mark.parametrize("signed", [True, False])
def test_quantisation_error(signed):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 100)) * 10.0 ** rng.uniform(-3, 0, (7, 100))
    x = jnp.asarray(x if signed else np.abs(x), jnp.float32)
    q = tt.quantise(x, 64, signed=signed)
    assert q.codes.shape == x.shape
    assert q.scales.shape == (-(-700 // 64),)
    back = tt.dequantise(q, 64, signed=signed)
    # Half of the widest gap between two codes, that at the top: 3/127 and 4/255 of the scale.
    scale = jnp.repeat(q.scales, 64)[:700].reshape(x.shape)
    assert bool((jnp.abs(back - x) <= (0.5 * 3 / 127 if signed else 0.5 * 4 / 255) * scale).all())
    keys = jax.random.split(jax.random.key(0), 2000)
    many = jax.vmap(
        lambda k: tt.dequantise(tt.quantise(x, 64, signed=signed, key=k), 64, signed=signed)
    )(keys)
    # Five standard errors; what cannot be 0 is lifted to the smallest code, 2e-10 of the scale.
    assert bool((jnp.abs(many.mean(0) - x) <= 5 * many.std(0) / 2000**0.5 + 1e-5 * scale).all())
    zeros = tt.quantise(jnp.zeros(10), 4, signed=signed)
    assert not tt.dequantise(zeros, 4, signed=signed).any()


def test_a_positive_moment_never_becomes_zero():
    x = jnp.array([1.0, 1e-12, 1e-20, 0.0])
    q = tt.quantise(x, 4, signed=False, key=jax.random.key(0))
    assert (tt.dequantise(q, 4, signed=False) > 0).tolist() == [True, True, True, False]


def test_adam_in_8_bits_trains_like_adam():
    """Least squares: the loss after 300 steps is within a tenth of the start's of Adam's own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)
    truth = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)
    loss = lambda p: jnp.mean((x @ (p["w"] - truth)) ** 2)

    def train(tx):
        def step(carry, _):
            p, s = carry
            value, g = jax.value_and_grad(loss)(p)
            u, s = tx.update(g, s, p)
            return (tt.apply_updates(p, u), s), value

        start = {"w": jnp.zeros((32, 16))}
        scan = jax.jit(lambda c: jax.lax.scan(step, c, None, length=300))
        (_, state), losses = scan((start, tx.init(start)))
        return state, losses

    _, full = train(tt.adam(0.02))
    state, eight = train(tt.quantise_moments(tt.adam(0.02), min_size=1))
    assert float(eight[-1]) < 0.02 * float(eight[0])
    assert abs(float(eight[-1]) - float(full[-1])) < 0.01 * float(full[0])
    bytes_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert bytes_of(state) < 0.3 * bytes_of(tt.adam(0.02).init({"w": jnp.zeros((32, 16))}))


def test_the_state_of_chosen_parameters():
    params = {"body": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 2))}}
    tx = tt.average_params(
        tt.named(
            clip=tt.clip_by_global_norm(1.0),
            opt=tt.groups([("head", tt.adam(0.1)), (".*", tt.sgd(0.1, 0.9))]),
        ),
        0.9,
    )
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params)
    count = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.integer)]
    doubled = tt.edit_state(state, params, "^head", lambda x: 2 * x)
    fresh = tt.reset_state(tx, state, params, "^head")
    slots = dict(jax.tree_util.tree_flatten_with_path(state)[0])
    edited = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(doubled)[0]:
        mine = [getattr(k, "key", None) for k in path[-2:]] == ["head", "w"]
        assert jnp.array_equal(leaf, 2 * slots[path] if mine else slots[path])
        edited += mine
    assert edited == 3  # Adam's two moments and the average
    assert not tt.get(fresh, "mu")["head"]["w"].any()
    assert tt.get(fresh, "average")["body"]["w"].any()
    after = [x for x in jax.tree.leaves(fresh) if jnp.issubdtype(x.dtype, jnp.integer)]
    assert [int(a) for a in after] == [int(b) for b in count]
    with pytest.raises(ValueError, match="'tail' matches none"):
        tt.edit_state(state, params, "tail", jnp.zeros_like)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        tt.edit_state(state, params, "head", jnp.ravel)
    frozen = tt.groups([("head", None), (".*", tt.adam(0.1))])
    with pytest.raises(ValueError, match="frozen"):
        tt.reset_state(frozen, frozen.init(params), params, "head")


def test_optax_rules_are_kept_apart():
    """The wrapped rules keep Optax's own state classes, which other tools know."""
    state = tt.adam(0.1).init({"w": jnp.ones(2)})
    assert isinstance(state[0], optax.ScaleByAdamState)
