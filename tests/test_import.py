"""`import trainkit` brings nothing that its user did not ask for."""

import subprocess
import sys

HEAVY = ["flax.linen", "flax.nnx", "hypothesis", "matplotlib", "orbax", "rich", "tensorboardX"]


def test_import_is_light_and_the_adapters_are_found_when_asked_for():
    code = (
        f"import sys, trainkit; heavy = {HEAVY}; "
        "assert not [m for m in heavy if m in sys.modules], sys.modules.keys() & set(heavy); "
        "trainkit.from_linen; trainkit.from_nnx; assert 'flax.linen' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
