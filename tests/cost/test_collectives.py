"""What is sent, against the bytes that each collective's definition gives."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from trainkit.cost import collectives

BYTES = 16 * 16 * 4  # of one device's share of x


def program(f, out):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(f, mesh=mesh, in_specs=P("a"), out_specs=out, check_vma=False)
    return jax.jit(mapped).lower(jnp.ones((64, 16))).compile().as_text()


CASES = {
    "over one axis": (lambda x: jax.lax.psum(x, "a"), P(), "all-reduce", 1, BYTES, 2 * 3 / 4),
    "over both": (lambda x: jax.lax.psum(x, ("a", "b")), P(), "all-reduce", 1, BYTES, 2 * 7 / 8),
    "gather": (lambda x: jax.lax.all_gather(x, "b"), P("a"), "all-gather", 1, 2 * BYTES, 1 / 2),
    "scatter": (
        lambda x: jax.lax.psum_scatter(x, "a", tiled=True),
        P("a"), "reduce-scatter", 1, BYTES, 3 / 4,
    ),
    "exchange": (
        lambda x: jax.lax.all_to_all(x, "a", 0, 0, tiled=True),
        P("a"), "all-to-all", 1, BYTES, 3 / 4,
    ),
    "permute": (
        lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 4) for i in range(4)]),
        P("a"), "collective-permute", 1, BYTES, 1,
    ),
    "in a loop": (
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(jax.lax.psum(c, "a")), None), x, length=5)[0],
        P("a"), "all-reduce", 5, 5 * BYTES, 2 * 3 / 4,
    ),
    "in a branch": (
        lambda x: jax.lax.cond(x.sum() > 0, lambda x: jax.lax.psum(x, "a"), lambda x: x, x),
        P("a"), "all-reduce", 1, BYTES, 2 * 3 / 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_sent(name):
    f, out, kind, calls, size, factor = CASES[name]
    (found,) = collectives(program(f, out), 8)
    assert (found.kind, found.calls, found.bytes) == (kind, calls, size)
    assert found.sent == pytest.approx(size * factor)


def test_what_is_computed_on_one_device_sends_nothing():
    text = jax.jit(lambda x: jnp.sin(x) @ x.T).lower(jnp.ones((8, 8))).compile().as_text()
    assert collectives(text, 1) == []


@pytest.mark.parametrize(
    ("line", "calls", "size", "sent"),
    [  # as other backends write them
        ("(bf16[64]{0}, bf16[512]{0:T(256)}) all-gather-start(%x), replica_groups=[4,8]<=[32]",
         1, 1024, 1024 * 7 / 8),
        ("f32[10]{0} all-reduce-start(%x), replica_groups=mesh['p'=2,'q'=4] {'p','q'}",
         1, 40, 2 * 40 * 7 / 8),
        ("(f8e4m3fn[10]{0}, f8e4m3fn[10]{0}, u32[], u32[]) collective-permute-start(%x)",
         1, 10, 10),
        ("f32[10]{0} all-reduce(%x), replica_groups={}", 1, 40, 2 * 40 * 31 / 32),
    ],
)  # fmt: skip
def test_other_forms_of_the_text(line, calls, size, sent):
    (found,) = collectives(
        f"HloModule m\n\nENTRY %main (x: f32[10]) -> f32[] {{\n  %r = {line}\n}}", 32
    )
    assert (found.calls, found.bytes, found.sent) == (calls, size, pytest.approx(sent))
