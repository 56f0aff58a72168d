"""The train step beside a hand-written one, in one run: ratios, never absolute times.

    python -m benchmarks.step            # all of it, about five minutes on two cores
    python -m benchmarks.step --part placements
    python -m benchmarks.step --clock cpu   # steps per CPU second: steadier on a shared machine

Parts:
  placements  steps per second over a hand-written jitted Flax + Optax step that reports the same
              loss and accuracy, and compilations
  calls       steps_per_call=50 over the hand-written per-step loop, small MLP, batch 16
  memory      FSDP's bytes of state per device over the replicated ones
  import      the time of `import trainkit` over that of `import jax, optax`

Blocks of the two sides alternate, and the median of the blocks' ratios is printed, because both
then meet the same noise.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import trainkit


class MLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


def data(batch_size, features, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(batch_size, features)).astype(np.float32),
        "label": rng.integers(0, 10, batch_size).astype(np.int32),
    }


def by_hand(module, tx, placement, shapes, norms):
    """What a user writes without trainkit: `(place, step)`, for states (params, opt_state)."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, along = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("data")),
    )

    def step(state, batch, mean=lambda x: x):
        params, opt_state = state

        def loss_fn(params):
            logits = module.apply({"params": params}, batch["x"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), (logits.argmax(-1) == batch["label"]).mean()

        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        loss, accuracy, grads = mean((loss, accuracy, grads))
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": loss, "accuracy": accuracy}
        if norms:
            for name, tree in (("grad", grads), ("update", updates), ("param", params)):
                metrics[name] = optax.global_norm(tree)
        return (params, opt_state), metrics

    def reduced(state, batch):
        return step(state, batch, lambda x: jax.lax.pmean(x, "data"))

    if placement == "single":
        return lambda state: jax.device_put(state, jax.devices()[0]), jax.jit(step)
    if placement == "pmap":
        mapped = jax.pmap(reduced, "data", in_axes=(None, 0), out_axes=(None, None))
        cut = lambda x: x.reshape(8, -1, *x.shape[1:])
        return (
            lambda state: jax.device_put(state, everywhere),
            lambda state, batch: mapped(state, jax.tree.map(cut, batch)),
        )
    if placement == "shard_map":
        mapped = jax.shard_map(
            reduced,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        jitted = jax.jit(mapped, in_shardings=(everywhere, along), out_shardings=everywhere)
        return lambda state: jax.device_put(state, everywhere), jitted

    def sharding(x):
        if placement == "fsdp" and x.size >= 2**10:
            axis = int(np.argmax([n if n % 8 == 0 else 0 for n in x.shape]))
            return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
        return everywhere

    def place(state):
        return jax.device_put(state, jax.tree.map(sharding, state))

    shardings = jax.tree.map(sharding, shapes)
    out = (shardings, everywhere)
    return place, jax.jit(step, in_shardings=(shardings, along), out_shardings=out)


clock = time.perf_counter


def block(step, state, batch, steps):
    start = clock()
    for _ in range(steps):
        state, out = step(state, batch)
        # Eight simulated devices must not be given an unbounded queue: trainkit/step/in_flight.py.
        jax.block_until_ready(out)
    return state, (clock() - start) / steps


def compared(ours, theirs, rounds=61):
    """The median over rounds of (their time / our time), each round in an order drawn anew."""
    drawn = np.random.default_rng(0).integers(0, 2, rounds)
    ratios = []
    states = [None, None]
    sides = [list(ours), list(theirs)]
    for step, state, batch, *_ in sides:
        block(step, state, batch, 2)
    for index in range(rounds):
        times = [0.0, 0.0]
        for side in (0, 1) if drawn[index] else (1, 0):
            step, state, batch, steps, per_call = sides[side]
            states[side], seconds = block(step, states[side] or state, batch, steps)
            times[side] = seconds / per_call
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def placements():
    tx = optax.adam(1e-3)
    module = MLP(512)
    batch = data(256, 784)
    model = trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)
    print("ours / by hand, steps per second (1 is equal)")
    print("placement    no norms    with three norms   compilations")
    for name in ("single", "pmap", "shard_map", "jit", "fsdp"):
        ratios = []
        for norms in (False, True):
            step = trainkit.make_train_step(model, tx, placement=name, norms=norms)
            state = model.state(tx, batch)
            theirs = state.params, state.opt_state
            place, hand = by_hand(module, tx, name, theirs, norms)
            ratios.append(
                compared((step, step.place(state), batch, 8, 1), (hand, place(theirs), batch, 8, 1))
            )
        print(f"{name:12} {ratios[0]:9.3f}   {ratios[1]:16.3f}   {step.compiles}", flush=True)


def calls():
    tx = optax.adam(1e-3)
    module = MLP(32)
    batch = data(16, 64)
    model = trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)
    state = model.state(tx, batch)
    step = trainkit.make_train_step(model, tx, steps_per_call=50)
    theirs = state.params, state.opt_state
    place, hand = by_hand(module, tx, "single", theirs, norms=False)
    fifty = jax.tree.map(lambda x: np.stack([x] * 50), batch)
    ratio = compared(
        (step, step.place(state), fifty, 10, 50),
        (hand, place(theirs), batch, 500, 1),
    )
    print(f"steps_per_call=50 / by hand, one call a step: {ratio:.2f}")


def memory():
    tx = optax.adamw(1e-3)
    model = trainkit.from_linen(MLP(1024), optax.softmax_cross_entropy_with_integer_labels)
    batch = data(64, 1024)
    state = model.state(tx, batch)
    bytes_ = {}
    for name in ("jit", "fsdp"):
        compiled = trainkit.make_train_step(model, tx, placement=name).compile(state, batch)
        bytes_[name] = compiled.memory_analysis().argument_size_in_bytes
    print(
        f"fsdp / replicated bytes of arguments per device, 8 devices: "
        f"{bytes_['fsdp'] / bytes_['jit']:.4f} (1/8 = 0.1250)"
    )


def imports():
    def seconds(code):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    ratios = [seconds("import trainkit") / seconds("import jax, optax") for _ in range(7)]
    print(f"import trainkit / import jax, optax: {statistics.median(ratios):.3f}")


PARTS = {"placements": placements, "calls": calls, "memory": memory, "import": imports}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="run only this part")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    if arguments.clock == "cpu":
        clock = time.process_time
    for part in arguments.part or PARTS:
        PARTS[part]()
