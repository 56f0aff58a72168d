"""What a run was made with."""

import platform

import jax

from trainkit._core.versions import PACKAGES, devices, versions


def test_every_package_that_decides_numbers_is_there():
    found = versions()
    assert set(found) == {"python", *PACKAGES}
    assert found["python"] == platform.python_version()
    assert found["jax"] == jax.__version__
    assert "not installed" not in found.values()


def test_devices_are_counted_by_kind():
    assert devices() == f"{len(jax.devices())} × cpu"
