"""Regularisation and transfer, against what each is by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit import regularise as r


def test_label_smoothing():
    y = jax.nn.one_hot(jnp.array([0, 2]), 4)
    smooth = r.label_smoothing(y, 0.1)
    assert jnp.allclose(smooth, optax.smooth_labels(y, 0.1))
    assert jnp.allclose(smooth, r.label_smoothing(jnp.array([0, 2]), 0.1, classes=4))
    with pytest.raises(ValueError, match="classes"):
        r.label_smoothing(jnp.array([0]), 0.1)
    with pytest.raises(ValueError, match="alpha"):
        r.label_smoothing(y, 1.5)


def test_mixup_mixes_inputs_and_targets_alike():
    labels = jnp.arange(64) % 8
    y = jax.nn.one_hot(labels, 8)
    x = {"a": y @ jnp.arange(8.0)[:, None], "b": jnp.tile(y[:, None], (1, 3, 1))}
    mixed, targets = jax.jit(r.mixup)(jax.random.key(0), x, y, 1.0)
    # The input is a linear function of the target before, and must be after.
    assert jnp.allclose(mixed["a"], targets @ jnp.arange(8.0)[:, None], atol=1e-5)
    assert jnp.allclose(mixed["b"], jnp.tile(targets[:, None], (1, 3, 1)), atol=1e-6)
    assert jnp.allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert bool((targets[jnp.arange(64), labels] >= 0.5).all())
    assert bool((targets.max(axis=1) < 0.999).any())
    assert r.mixup(jax.random.key(0), x, y, 0.0)[1] is y
    with pytest.raises(ValueError, match="'a'"):
        r.mixup(jax.random.key(0), {"a": jnp.ones((3, 2))}, y)
    with pytest.raises(ValueError, match="one_hot"):
        r.mixup(jax.random.key(0), x, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, bool])
def test_mixup_of_integers_is_floating_and_mixed_as_the_targets(dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 4)).astype(dtype)
    y = np.eye(32, dtype=np.float32)  # a target says which examples, and how much of each
    mixed, targets = r.mixup(jax.random.key(0), jnp.asarray(images), jnp.asarray(y), 1.0)
    assert mixed.dtype == jnp.float32
    want = np.asarray(targets, np.float64) @ images.astype(np.float64)
    np.testing.assert_allclose(mixed, want, rtol=1e-5, atol=1e-4)
    assert ((np.asarray(targets) > 0).sum(axis=1) == 2).any()
    assert r.mixup(jax.random.key(0), jnp.asarray(images), jnp.asarray(y), 0.0)[0].dtype == "f4"


def test_distillation_against_numpy():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 5, 4))
    labels = rng.integers(0, 4, 5)
    soft = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    p, q = soft(t / 3), soft(s / 3)
    kl = (p * np.log(p / q)).sum(-1) * 9
    ce = -np.log(soft(s)[np.arange(5), labels])
    found = r.distillation_loss(
        jnp.asarray(s), jnp.asarray(t), jnp.asarray(labels), temperature=3.0, alpha=0.3
    )
    assert np.allclose(found, 0.3 * kl + 0.7 * ce, atol=1e-5)
    assert np.allclose(
        r.distillation_loss(jnp.asarray(s), jnp.asarray(t), temperature=3.0), kl, atol=1e-5
    )
    to_teacher = jax.grad(lambda t: r.distillation_loss(jnp.asarray(s), t).sum())(jnp.asarray(t))
    assert not to_teacher.any()
    sure = jnp.array([[1e4, -1e4]])
    assert bool(jnp.isfinite(jax.grad(lambda s: r.distillation_loss(s, sure).sum())(sure)).all())
    with pytest.raises(ValueError, match="one shape"):
        r.distillation_loss(jnp.ones((2, 3)), jnp.ones((2, 4)))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 1.0])
def test_masks_drop_exactly_the_smallest(sparsity):
    w = jnp.asarray(np.random.default_rng(0).normal(size=(10, 13)), jnp.float32)
    tied = jnp.ones((10, 13))
    masks = jax.jit(r.magnitude_masks)({"w": w, "tied": tied, "b": jnp.ones(5)}, sparsity)
    for name in ("w", "tied"):
        assert int((~masks[name]).sum()) == round(sparsity * 130)
    if 0 < sparsity < 1:
        kept, dropped = jnp.abs(w)[masks["w"]], jnp.abs(w)[~masks["w"]]
        assert float(kept.min()) > float(dropped.max())
    assert bool(masks["b"].all())


def test_pruning_follows_its_schedule():
    p = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(20, 20)), jnp.float32)}
    schedule = r.sparsity_schedule(0.8, begin=2, steps=10)
    tx = tt.chain(tt.adam(0.05), r.prune(schedule, every=3))
    state, update, zeros = tx.init(p), jax.jit(tx.update), []
    for i in range(20):
        u, state = update(jax.tree.map(lambda x, i=i: jnp.sin(7 * x + i), p), state, p)
        p = tt.apply_updates(p, u)
        zeros.append(float((p["w"] == 0).mean()))
    assert zeros[0] == 0
    assert zeros[2] == zeros[0]
    assert zeros[-1] == pytest.approx(0.8, abs=0.01)
    assert zeros == sorted(zeros)


def pruned_by_hand(p, updates, sparsities, every):
    """The weights after each step: of what is kept, the smallest |θ + u| are dropped as well."""
    p, kept = p.astype(np.float64).ravel(), np.ones(p.size, bool)
    for t, (u, share) in enumerate(zip(updates, sparsities, strict=True)):
        p = p + u.ravel()
        if t % every == 0:
            more = max(round(share * p.size) - (~kept).sum(), 0)
            order = [i for i in np.argsort(np.abs(p), kind="stable") if kept[i]]
            kept[order[:more]] = False
        p[~kept] = 0
        yield p


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("final", [0.5, 0.1])
def test_pruned_weights_stay_0(every, final):
    """Also where their gradients are the largest, and where the sparsity falls."""
    rng = np.random.default_rng(4)
    p = rng.normal(size=(6, 5)).astype(np.float32)
    updates = rng.normal(size=(12, 6, 5)).astype(np.float32) * 3
    shares = [0.5] * 6 + [final] * 6
    schedule = lambda t: jnp.where(t < 6, 0.5, final).astype(jnp.float32)
    tx = r.prune(schedule, every=every)
    now, state = jnp.asarray(p), tx.init(jnp.asarray(p))
    for u, want in zip(updates, pruned_by_hand(p, updates, shares, every), strict=True):
        step, state = tx.update(jnp.asarray(u), state, now)
        now = now + step
        np.testing.assert_allclose(now.ravel(), want, rtol=1e-4, atol=1e-5)
    assert int((now == 0).sum()) == 15


def test_a_kept_weight_of_0_is_pruned_after_those_that_are():
    tx = r.prune(0.5)
    p = jnp.array([[0.0, 0.0, 1.0, 2.0]])
    state = tx.init(p)
    for u in ([[0.0, 0.0, 0.0, 0.0]], [[5.0, 5.0, -1.0, 0.0]]):
        step, state = tx.update(jnp.array(u), state, p)
        p = p + step
    assert p.tolist() == [[0, 0, 0, 2]]
    assert state.masks.tolist() == [[False, False, True, True]]


def loss_fn(params, model_state, batch, rng):
    x, y = batch
    return trainkit.Loss(jnp.sum((x @ params["w"] - y) ** 2), jnp.float32(len(y)))


def test_an_ensemble_trains_each_member_as_alone():
    rng = np.random.default_rng(2)
    batch = (jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), jnp.ones(8))
    init = lambda key: {"w": jax.random.normal(key, (3,))}
    members = r.ensemble_init(init, jax.random.key(0), 4)
    tx = tt.adamw(0.1)

    def train(loss, params):
        step = trainkit.make_train_step(loss, tx)
        state = step.place(trainkit.TrainState.create(params, tx))
        for _ in range(5):
            state, _ = step(state, batch)
        return state.params["w"]

    together = train(r.ensemble_loss(loss_fn), members)
    for i in range(4):
        alone = train(loss_fn, {"w": members["w"][i]})
        assert jnp.allclose(together[i], alone, atol=1e-5)


def test_hard_examples_keep_the_hardest():
    losses = jnp.array([0.3, 2.0, 0.1, 5.0, 1.0])
    assert r.hard_examples(losses, 0.4).tolist() == [0, 1, 0, 1, 0]
    assert r.hard_examples(losses, 0.41).tolist() == [0, 1, 0, 1, 1]
    assert r.hard_examples(losses, 1.0).tolist() == [1] * 5
    assert r.hard_examples(losses.at[0].set(jnp.nan), 0.2).tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="fraction"):
        r.hard_examples(losses, 0.0)


@pytest.mark.parametrize("dtype", [float, np.float32])
def test_a_fraction_of_a_batch_is_rounded_up_as_it_is_written(dtype):
    for size in (50, 100, 250):
        losses = jnp.arange(float(size))
        for hundredths in range(1, 101):
            kept = r.hard_examples(losses, dtype(f"{hundredths / 100:.2f}"))
            assert int(kept.sum()) == -(-hundredths * size // 100)


def test_importance_sampling_is_unbiased():
    values = jnp.array([1.0, 5.0, -2.0, 0.5, 30.0])
    scores = jnp.abs(values)
    keys = jax.random.split(jax.random.key(0), 20_000)

    def estimate(key, scores):
        i, w = r.importance_sample(key, scores, 4)
        return jnp.mean(w * values[i])

    by_score = jax.vmap(lambda k: estimate(k, scores))(keys)
    uniform = jax.vmap(lambda k: estimate(k, jnp.zeros(5)))(keys)
    for estimates in (by_score, uniform):  # five standard errors of the mean
        error = 5 * float(estimates.std()) / len(keys) ** 0.5
        assert float(estimates.mean()) == pytest.approx(float(values.mean()), abs=error)
    assert float(by_score.std()) < 0.5 * float(uniform.std())


def test_gradient_norms_by_hand():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(6, 3)), jnp.float32)
    norms = r.gradient_norms(lambda p, x: 0.5 * (p["w"] @ x) ** 2, {"w": jnp.ones(3)}, x)
    expected = jnp.abs(x.sum(axis=1)) * jnp.linalg.norm(x, axis=1)
    assert jnp.allclose(norms, expected, rtol=1e-5)
