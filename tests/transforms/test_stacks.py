"""Stacked layers: a rule on a scan's stack is the rule on its layers, one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt

LAYERS = 3
RULES = {
    "muon": lambda **s: tt.muon(0.02, weight_decay=0.1, weight_decay_mask=tt.decay_mask, **s),
    "mars": lambda **s: tt.mars(0.02, weight_decay=0.1, **s),
    "adam_mini": lambda **s: tt.adam_mini(0.02, blocks={"deep": (0,)}, **s),
    "normuon": lambda **s: tt.normuon(0.02, weight_decay=0.1, **s),
    "shampoo": lambda **s: tt.shampoo(0.02, weight_decay=0.1, precondition_frequency=2, **s),
    "kron": lambda **s: tt.kron(0.02, weight_decay=0.1, **s),
    "dion": lambda **s: tt.dion(0.02, weight_decay=0.1, rank_fraction=0.5, **s),
    "scion": lambda **s: tt.scion(0.02, norms={"head": "sign"}, **s),
    "lamb": lambda **s: tt.lamb(0.02, weight_decay=0.1, **s),
    "lars": lambda **s: tt.lars(50.0, weight_decay=0.1, **s),
    "adafactor": lambda **s: tt.adafactor(0.02, min_dim_size_to_factor=3, momentum=0.9, **s),
    "cautious": lambda **s: tt.cautious(tt.sgd(0.1, 0.9), **s),
    "clip_adaptive": lambda **s: tt.clip_adaptive(0.1, **s),
    "clip_by_norm": lambda **s: tt.clip_by_norm(0.5, **s),
    "centralize": lambda **s: tt.centralize(**s),
    "novograd": lambda **s: tt.novograd(0.02, weight_decay=0.1, **s),
    "soap": lambda **s: tt.soap(0.02, precondition_frequency=2, precondition_1d=True, **s),
}
# A stack of layers, a stack of stacks, a stack of another size, and what is no stack.
SHAPES = {
    "blocks": {"kernel": (4, 5), "ln": {"scale": (4,)}},
    "deep": {"kernel": (3, 4)},
    "other": {"kernel": (4, 3), "bias": ()},
    "head": (5, 4),
}
STACKS = {"blocks": (LAYERS,), "deep": (2, LAYERS), "other": (2,), "head": ()}
STACKED = {"blocks": 1, "deep": 2, "other": 1}


def draw(seed):
    rng = np.random.default_rng(seed)
    make = lambda stack, shape: jnp.asarray(rng.normal(size=stack + shape), jnp.float32)
    leaf = lambda x: isinstance(x, tuple)
    return {
        name: jax.tree.map(lambda s, name=name: make(STACKS[name], s), shapes, is_leaf=leaf)
        for name, shapes in SHAPES.items()
    }


def apart(tree):
    """The tree with the layers of its stacks as leaves of their own."""
    return {
        name: {str(i): jax.tree.map(lambda x, i=i: x[i], part) for i in np.ndindex(*STACKS[name])}
        for name, part in tree.items()
    }


def run(tx, params, grads):
    update, state, out = jax.jit(tx.update), tx.init(params), []
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    for g in grads:
        u, state = update(g, state, params)
        params = optax.apply_updates(params, u)
        out.append(u)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == kinds
    assert update._cache_size() == 1
    return out


@pytest.mark.parametrize("rule", RULES)
def test_a_stack_is_its_layers_one_by_one(rule):
    make = RULES[rule]
    params, grads = draw(0), [draw(i) for i in range(1, 5)]
    found = run(make(stacked=STACKED), params, grads)
    wanted = run(make(), apart(params), list(map(apart, grads)))
    for t, (f, w) in enumerate(zip(found, wanted, strict=True)):
        # One batched program beside many small ones, in float32.
        off = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), apart(f), w)
        assert max(jax.tree.leaves(off)) < 1e-4, (t, off)


def test_injected_it_is_the_same():
    params, grads = draw(0), [draw(i) for i in range(1, 3)]
    tx = RULES["lamb"](stacked=STACKED)
    found, wanted = run(tt.inject(tx), params, grads), run(tx, params, grads)
    off = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, wanted)
    assert max(jax.tree.leaves(off)) < 1e-6
    unaware = run(RULES["lamb"](), params, grads)
    assert float(jnp.abs(unaware[1]["deep"]["kernel"] - wanted[1]["deep"]["kernel"]).max()) > 1e-3


def test_the_state_is_that_of_the_rule_without_but_for_layer_axes():
    params = draw(0)
    for rule in ("adafactor", "novograd", "soap"):
        plain = RULES[rule]().init(apart(params)["blocks"]["(0,)"])
        stack = RULES[rule](stacked={"": 1}).init(params["blocks"])
        one = jax.tree.map(lambda x: x if x.dtype == jnp.int32 else x[0], stack)
        assert jax.tree.structure(one) == jax.tree.structure(plain)
        assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, plain)


def test_layers_of_a_stack_decay_as_layers_of_their_own():
    stack, block = jnp.ones((LAYERS, 2)), jnp.ones(2)
    one = tt.layerwise_decay(["embed", "blocks", "head"], 0.5, stacked={"blocks": 1})
    names = [f"block_{i}" for i in range(LAYERS)]
    many = tt.layerwise_decay(["embed", *names, "head"], 0.5)
    ends = {"embed": jnp.ones(3), "head": jnp.ones(())}
    tree = {**ends, "blocks": {"w": stack, "b": stack}}
    found, _ = one.update(tree, one.init(tree))
    tree = {**ends, **dict.fromkeys(names, block)}
    wanted, _ = many.update(tree, many.init(tree))
    for name in ends:
        assert jnp.array_equal(found[name], wanted[name])
    for i, name in enumerate(names):
        assert jnp.array_equal(found["blocks"]["w"][i], wanted[name])
    with pytest.raises(ValueError, match=r"'blocks'.*\(2,\) and \(3,\)"):
        one.init({**ends, "blocks": {"w": stack, "b": jnp.ones((2, 2))}})


def test_in_groups_an_expression_may_match_what_is_anothers():
    tx = tt.groups([("head", tt.sgd(0.1)), (".*", tt.lamb(0.1, stacked={"head|blocks": 1}))])
    params = {"head": jnp.ones(3), "blocks": jnp.ones((2, 3))}
    with_head = tx.update(params, tx.init(params), params)[0]
    assert with_head["blocks"].shape == (2, 3)


@pytest.mark.parametrize(
    ("stacked", "message"),
    [
        ({"block_": 1}, r"'block_', which matches none of the parameters 'blocks/bias'"),
        ({"bias": 2}, r"'bias': 2.*'blocks/bias'.*\(3,\).*no 2 layer axes"),
        ({"blocks": -1}, r"stacked\['blocks'\]"),
        ({"(": 1}, "regular expression"),
    ],
)
def test_what_is_no_stack(stacked, message):
    params = {"blocks": {"bias": jnp.ones(3), "kernel": jnp.ones((3, 2, 2))}}
    with pytest.raises(ValueError, match=message):
        tt.lamb(0.1, stacked=stacked).init(params)


class Block(nn.Module):
    """Layers of which one is a stack of two itself."""

    inner: int = 0

    @nn.compact
    def __call__(self, x, _=None):
        if self.inner:
            x, _ = scanned(nn.remat(Block), self.inner)(name="inner")(x, None)
        return x + nn.Dense(4)(nn.LayerNorm()(x)), None


def scanned(block, length, axis=0):
    axes, rngs = {"params": axis}, {"params": True}
    return nn.scan(block, variable_axes=axes, split_rngs=rngs, length=length)


class Net(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="embed")(x)
        x, _ = scanned(Block, LAYERS, self.axis)(name="plain")(x, None)
        x, _ = scanned(Block, 5)(inner=2, name="deep")(x, None)
        return nn.Dense(2, name="head")(x)


def test_a_linen_model_says_itself_where_it_stacks_its_layers():
    batch = {"x": np.ones((3, 4), np.float32), "y": np.zeros((3,), np.int32)}
    loss = optax.softmax_cross_entropy_with_integer_labels
    model = trainkit.from_linen(Net(), loss)
    stacked = model.stacked(batch)
    tx = tt.muon(1e-3, stacked=stacked)
    params = model.state(tx, batch).params
    ranks = {"embed": 0, "plain": 1, "deep": 1, "head": 0}
    for name, part in params.items():
        rank = jax.tree.leaves(jax.tree.map(jnp.ndim, part))
        own = {p: n for p, n in stacked.items() if p.startswith(f"^{name}/")}
        assert (own == {}) == (ranks[name] == 0), name
        assert len(own) in (0, len(rank))
    assert stacked["^deep/inner/Dense_0/kernel$"] == 2
    assert stacked["^deep/Dense_0/kernel$"] == stacked["^plain/LayerNorm_0/scale$"] == 1
    with pytest.raises(ValueError, match=r"'plain/.*variable_axes"):
        trainkit.from_linen(Net(axis=1), loss).stacked(batch)
