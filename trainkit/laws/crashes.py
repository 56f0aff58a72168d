"""What a rule that crashes has broken, and the program that shows it."""

from __future__ import annotations

from trainkit.laws.families import form
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import first_line


def crashed_as(error: BaseException, where: str, law: Law) -> Violation:
    cause = f"{type(error).__name__}: {first_line(error)}"
    example = {"cause": cause, "params": "{'b': 3 numbers, 'w': 2×3 numbers}"}
    if law.kind == "schedule":
        return Violation(f"it crashed ({where}): {cause}", example, _CRASH_SCHEDULE)
    kinds = _KINDS.get(law.name, "[('bfloat16', 'bfloat16'), ('float32', 'float32')]")
    script = _SCRIPTS.get(law.name) or _CRASH.format(kinds=kinds)
    if "64" in where or "64" in law.name:
        script = "jax.config.update('jax_enable_x64', True)\n" + script
    return Violation(f"it crashed ({where}): {cause}", example, script)


_WRAPPED = (
    "params = {{'b': jnp.array([1.0, 2.0, 3.0]), 'w': jnp.ones((2, 3))}}\n"
    "for rule in ({rules}):\n    p, state = params, rule.init(params)\n    for _ in range(3):\n"
    "        u, state = rule.update(p, state, p)\n        p = optax.apply_updates(p, u)"
)
_GROUPS = "told(optax.partition({'one': bare, 'two': bare}, {'b': 'one', 'w': 'two'}))"
# A loss that a rule is told of is that of the whole tree, also where it sees a part.
_BARE = "bare, told = (bare, told) if 'told' in globals() else (tx, lambda rule: rule)\n"
# What a law does with a rule, where it is not what every law does.
_SCRIPTS = {
    "abstract parameters": form.ABSTRACT,
    "identity and associativity": _WRAPPED.format(
        rules="optax.chain(optax.identity(), tx), optax.chain(tx, optax.identity())"
    ),
    "masked and partitioned": _BARE
    + _WRAPPED.format(rules=f"told(optax.masked(bare, {{'b': True, 'w': True}})), {_GROUPS}"),
}
# The dtypes of parameters and gradients that a law tries.
_KINDS = {
    "mixed dtypes": "[('float32', 'bfloat16'), ('bfloat16', 'float32'), ('float32', 'float16')]",
    "float16": "[('float16', 'float16')]",
    "float64": "[('float64', 'float64'), ('float32', 'float32')]",
    "oracle in float64": "[('float64', 'float64')]",
}
_CRASH = (
    "params = {{'b': jnp.array([1.0, 2.0, 3.0]), 'w': jnp.ones((2, 3))}}\n"
    "state = tx.init(params)\nupdate = jax.jit(tx.update)\nfor _ in range(3):\n"
    "    updates, state = update(params, state, params)\n"
    "    params = optax.apply_updates(params, updates)\n"
    "for params_dtype, grads_dtype in {kinds}:\n"
    "    p = jax.tree.map(lambda x: x.astype(params_dtype), params)\n"
    "    g = jax.tree.map(lambda x: jnp.stack([x, x]).astype(grads_dtype), params)\n"
    "    jax.eval_shape(lambda: tx.update(jax.tree.map(lambda x: x[0], g), tx.init(p), p))\n"
    "    if params_dtype == grads_dtype:\n"
    "        jax.lax.scan(lambda s, g: tx.update(g, s, p)[::-1], tx.init(p), g)"
)
_CRASH_SCHEDULE = (
    "print(schedule(0), schedule(1), schedule(2**31 - 1))\nprint(jax.jit(schedule)(jnp.array(1)))\n"
    "print(jax.vmap(schedule)(jnp.arange(4)))"
)
