"""What a check costs its first time: seconds of processor time, which other load does not move."""

import os
import subprocess
import sys

import jax
import optax
import pytest

from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject, mini

PROGRAM = """
import optax, time
from trainkit import laws
from trainkit import transforms as tt
began = time.process_time()
laws.check({call}, seconds=None).raise_for_failures()
print(time.process_time() - began)
"""
WHOLE = {
    "optax.adamw(1e-3), like='adamw'": 15.0,
    "tt.soap(1e-3)": 40.0,
    "tt.muon(1e-3)": 40.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("call", WHOLE)
def test_a_whole_check_takes_no_longer(call):
    """Without programs that were compiled before, optimised, on one device: as for a user."""
    ours = ("JAX_", "XLA_FLAGS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"JAX_PLATFORMS": "cpu"}
    run = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= WHOLE[call]


def test_a_slow_rule_is_compiled_once_for_all_laws_that_only_run_it():
    traced = []

    def update(g, s, p=None):
        if isinstance(jax.tree.leaves(g)[0], jax.core.Tracer):
            traced.append(len(jax.tree.leaves(g)))
        return jax.tree.map(
            lambda x: jax.lax.scan(lambda c, _: (c * 0.9, None), -0.1 * x, length=9)[0], g
        ), s

    tx = optax.GradientTransformation(lambda p: (), update)
    subject = Subject(tx)
    subject.memo["slow when eager"] = True
    params, grads = mini()
    for _ in range(3):
        subject.trajectory(tx, params, grads)
        with ordinary():
            subject.compiled()(grads[0], (), params)
    assert traced == [2]
