"""What a refusal says: the axis first, the reason in a sentence, and last a call that works."""

import jax
import jax.numpy as jnp
import pytest

from trainkit import growth


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def refusal(small_fn, big_fn, small, big, *inputs, **options):
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(small_fn, big_fn, small, big, *inputs, **options)
    return str(caught.value).splitlines()


def chosen(p, x):
    return jax.nn.softmax(x @ p["a"]) @ p["o"]


def softmaxed(n):
    return {"a": s(3, n), "o": s(n, 2)}


def test_the_axis_comes_first_and_a_call_that_was_tried_last():
    lines = refusal(chosen, chosen, softmaxed(4), softmaxed(6), s(5, 3))
    assert lines[0].startswith("axis 1 of a cannot grow 4→6: 6 is not a multiple of 4, and ")
    assert lines[-1].endswith("a multiple of 4 (8, 12, …): 8 was tried, and has a plan")
    growth.plan(chosen, chosen, softmaxed(4), softmaxed(8), s(5, 3))
    assert len({line for line in lines if "= reduce" in line}) == 4  # no equation twice


def test_a_multiple_that_is_refused_too_is_not_advised():
    def sums(p, x):
        return jnp.cumsum(jax.nn.softmax(x @ p["a"]), -1) @ p["o"]

    lines = refusal(sums, sums, softmaxed(4), softmaxed(6), s(5, 3))
    assert "multiple" not in lines[-1]


def test_a_multiple_is_not_told_to_grow_to_a_multiple():
    lines = refusal(chosen, chosen, softmaxed(4), softmaxed(8), s(5, 3), append=[("a", 1)])
    assert lines[
        -1
    ] == "  instead:    leave out append= for this axis, if it is there, or grow " + (
        "another axis"
    )


def test_a_head_that_shrinks_because_the_width_stayed():
    heads = lambda p, x: jnp.tanh(jnp.einsum("td,dhe->the", x, p["q"])).sum((1, 2))
    lines = refusal(heads, heads, {"q": s(8, 2, 4)}, {"q": s(8, 4, 2)}, s(3, 8))
    assert lines[0].startswith("axis 2 of q would shrink from 4 to 2")
    assert "keep this axis at 4 while others grow (q 2 → 4)" in lines[-1]
    fused = lambda h: lambda p, x: jnp.tanh((x @ p["q"]).reshape(3, h, -1)).sum((1, 2))
    lines = refusal(fused(2), fused(4), {"q": s(8, 8)}, {"q": s(8, 8)}, s(3, 8))
    assert "keep it at 4, and grow the axis that is split from 8 to 16" in lines[-1]
    lines = refusal(heads, heads, {"q": s(8, 4, 4)}, {"q": s(8, 2, 2)}, s(3, 8))
    assert "swap the two models" in lines[-1]


def test_a_cut_through_a_part_that_does_not_grow():
    def cut(p, x):
        h = jnp.concatenate([x @ p["a"], x @ p["b"]], -1)
        return jnp.tanh(h[:, h.shape[-1] // 4 :]) @ p["o"]

    sizes = lambda n, m: {"a": s(3, 4), "b": s(3, n), "o": s(m, 1)}
    lines = refusal(cut, cut, sizes(4, 6), sizes(8, 9), s(5, 3))
    assert lines[0].startswith(
        "axis 1 of b cannot grow 4→8: a slice cuts the axis [4 | 4→8] into the parts 2 → 3 | 6 → 9"
    )


def test_results_of_different_structures():
    plain, more = lambda p, x: x @ p["a"], lambda p, x: (x @ p["a"], {"aux": x})
    lines = refusal(plain, more, {"a": s(3, 4)}, {"a": s(3, 4)}, s(5, 3))
    assert (
        lines[-1]
        == "  instead:    pass lambda params, *x: big_fn(params, *x)[0] in place of big_fn"
    )
    lines = refusal(more, plain, {"a": s(3, 4)}, {"a": s(3, 4)}, s(5, 3))
    assert "small_fn(params, *x)[0] in place of small_fn" in lines[-1]
    named = lambda p, x: {"y": x @ p["a"]}
    lines = refusal(named, more, {"a": s(3, 4)}, {"a": s(3, 4)}, s(5, 3))
    assert lines[0].endswith("{'y': *} in the small and (*, {'aux': *}) in the big model")


def test_parameters_one_level_deeper():
    deeper = lambda p, x: x @ p["params"]["a"]
    lines = refusal(lambda p, x: x @ p["a"], deeper, {"a": s(3, 4)}, {"params": {"a": s(3, 8)}},
                    s(5, 3))  # fmt: skip
    assert lines[-1].startswith("  instead:    pass big_params['params']")


@pytest.mark.parametrize("norm", [False, True])
def test_advice_on_gates_is_for_models_with_norms(norm):
    def net(p, x):
        for layer in p["layers"]:
            x = jax.nn.gelu(x @ layer) + (x if norm else 0.0)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) if norm else x
        return x @ p["out"]

    sizes = lambda depth: {"layers": [s(4, 4)] * depth, "out": s(4, 2)}
    lines = refusal(net, net, sizes(1), sizes(2), s(5, 4))
    assert ("post-norm" in lines[-1]) == norm
    assert lines[-1].endswith("how='stack' was tried, and has a plan")
    growth.plan(net, net, sizes(1), sizes(2), s(5, 4), how="stack")


def test_advice_on_layers_that_are_gated_or_end_in_a_norm():
    """They have ReLU, or no residual addition: advice to add these would not help."""

    def gated(p, x):
        u, v, x = (jax.nn.relu(x @ p[name]) for name in ("u", "v", "in"))
        for layer in p["layers"]:
            h = jax.nn.relu(x @ layer)
            x = h * u + (1 - h) * v
        return x @ p["out"]

    def normed(p, x):
        x = x @ p["in"]
        for layer in p["layers"]:
            x = x @ layer
            x = jax.nn.relu(x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6))
        return x @ p["out"]

    def of(depth):
        entering = {name: s(4, 4) for name in ("u", "v", "in")}
        return entering | {"layers": [s(4, 4)] * depth, "out": s(4, 2)}

    for fn in (gated, normed):
        names = ("u", "v") if fn is normed else ()
        small, big = ({k: v for k, v in of(n).items() if k not in names} for n in (1, 2))
        lines = refusal(fn, fn, small, big, s(5, 4))
        assert "x + gate · block(x) with gate = 0" in lines[-1]
        assert "post-norm" not in lines[-1]
        assert "plain layers" not in lines[-1]


def test_a_remainder_by_the_size_of_a_table():
    looked_up = lambda p, i: jnp.tanh(p["table"][i]) @ p["o"]
    hashed = lambda p, i: looked_up(p, i % p["table"].shape[0])
    small, big = ({"table": s(n, 4), "o": s(4, 2)} for n in (5, 7))
    numbers = jax.ShapeDtypeStruct((3,), jnp.int32)
    lines = refusal(hashed, hashed, small, big, numbers)
    assert "remainders are taken by 5 in the small model and by 7 in the big one" in lines[0]
    assert "to a multiple of 5 (10, 15, …): 10 was tried, and has a plan" in lines[-1]
    growth.plan(hashed, hashed, small, {**big, "table": s(10, 4)}, numbers)
    growth.plan(looked_up, looked_up, small, big, numbers)


def test_what_differs_and_is_no_size():
    def net(apart):
        conv = lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1,), "SAME", rhs_dilation=(apart,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return lambda p, x: jax.nn.relu(conv(x, p["k"])) @ p["o"]

    sizes = lambda n: {"k": s(3, 2, n), "o": s(n, 2)}
    lines = refusal(net(1), net(2), sizes(4), sizes(8), s(2, 9, 2))
    assert "use the same in both models, which may differ in sizes alone" in lines[-1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_number_that_is_a_size(dtype):
    """As an ε that was given the width by mistake."""

    def fn(p, x):
        y = jax.nn.silu(x @ p["a"])
        width = jnp.asarray(y.shape[-1], dtype)
        return y / jnp.sqrt(jnp.mean(y**2, -1, keepdims=True) + width) @ p["o"]

    of = lambda tree: jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, dtype), tree)
    lines = refusal(fn, fn, of(softmaxed(4)), of(softmaxed(8)), of(s(5, 3)))
    assert lines[-1].endswith("use one number in both models: the small one has 4, the big one 8")


def test_a_result_that_counts_layers():
    """A loss that every layer adds to: the other result alone can be deeper."""

    def fn(p, x):
        loss = 0.0
        for layer in p["layers"]:
            loss = loss + jnp.mean(jax.nn.softmax(x @ layer["gate"]) ** 2)
            x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
        return x @ p["o"], loss

    sizes = lambda n: {
        "layers": [{"gate": s(5, 3), "up": s(5, 4), "down": s(4, 5)}] * n, "o": s(5, 2)
    }  # fmt: skip
    assert "at 0 it still changes result 1 (of 0 to 1)," in refusal(
        fn, fn, sizes(1), sizes(2), s(4, 5)
    )[0]  # fmt: skip
    first = lambda p, x: fn(p, x)[0]
    assert growth.plan(first, first, sizes(1), sizes(2), s(4, 5)).zeroed == ("layers/1/down",)


def test_experts_one_by_one():
    def fn(p, x):
        scores, chosen = jax.lax.top_k(x @ p["a"], 2)
        made = jnp.stack([jnp.tanh(x @ w) for w in p["experts"]])
        made = made[chosen, jnp.arange(len(x))[:, None]]
        return jnp.einsum("tk,tkd->td", jax.nn.softmax(scores), made)

    experts = lambda n: {"a": s(5, n), "experts": [s(5, 4)] * n}
    lines = refusal(fn, fn, experts(3), experts(6), s(6, 5))
    assert "hold the weights of experts in one array, with an axis of experts" in lines[-1]


def test_more_modes_of_a_spectrum():
    """The advice, followed for the lowest modes and the highest, keeps the function."""

    def make(m):
        def fn(p, x):
            f = jnp.fft.fft(x, axis=0)
            y = jnp.zeros(f.shape, f.dtype).at[:m].set(f[:m] * p["low"].astype(f.dtype))
            return jnp.fft.ifft(y.at[-m:].set(f[-m:] * p["high"].astype(f.dtype)), axis=0).real

        return fn

    modes = lambda m: {"low": s(m, 3), "high": s(m, 3)}
    lines = refusal(make(2), make(3), modes(2), modes(3), s(8, 3))
    assert "behind those that read x[:m] and in front of those that read x[-m:]" in lines[-1]
    small = {k: jax.random.normal(jax.random.key(i), (2, 3)) for i, k in enumerate(modes(2))}
    big = {
        "low": jnp.pad(small["low"], ((0, 1), (0, 0))),
        "high": jnp.pad(small["high"], ((1, 0), (0, 0))),
    }
    x = jax.random.normal(jax.random.key(5), (8, 3))
    assert jnp.allclose(make(3)(big, x), make(2)(small, x), atol=1e-5)  # rounding of float32
