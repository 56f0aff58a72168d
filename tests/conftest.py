"""Every test runs on eight simulated devices, with strict dtype promotion; warnings are errors.

Most of a run's time is spent on compiling programs that run once. So the default run compiles
without most optimizations, which `--slow=all` has as users have them; and a program that another
test or worker has compiled in this run is read from a folder that lives as long as the run.
"""

import atexit
import ctypes
import gc
import importlib.metadata
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import zlib

import pytest

# All before JAX is imported; workers, and programs that tests start, inherit it from the process
# that set it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
as_users = "--slow=all" in sys.argv
quick = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if as_users else "1")
flags = ["--xla_force_host_platform_device_count=8"]
if quick == "1" and importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compile in half the time; the first is unknown in 0.12, the second of no use there.
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="trainkit-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A run in the background (`make test &`, nohup) inherits signals that are ignored; tests send them.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

import jax  # noqa: E402  (reads the environment)

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tracing makes many objects that stay: looking through all of them as often as Python does by
# default is a tenth of the time.
gc.set_threshold(100_000, 20, 20)

LARGE = 2**31  # bytes of a worker's memory at which it forgets its programs
SAMPLE = 40  # of the slow tests, one in this many runs by default


def pytest_addoption(parser):
    parser.addoption(
        "--slow",
        choices=["none", "sample", "all"],
        default="sample",
        help="which of the tests marked slow to run: none, a fixed sample (the default) or all",
    )


def pytest_collection_modifyitems(config, items):
    choice = config.getoption("--slow")
    # A test that was asked for by its full name runs whatever the choice.
    named = any("::" in arg for arg in config.invocation_params.args)
    if choice == "all" or named:
        return

    def keep(item):
        if item.get_closest_marker("slow") is None:
            return True
        # A hash of the name, so that the sample is the same everywhere and spread over matrices.
        return choice == "sample" and zlib.crc32(item.nodeid.encode()) % SAMPLE == 0

    left_out = [item for item in items if not keep(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if keep(item)]


@pytest.fixture
def x64():
    """Runs the test in float64 mode and puts float32 back afterwards."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised():
    """Compiles the test's programs as users' are: for what XLA's optimizations do to numbers."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick == "1")


def resident() -> int:
    """Bytes of this process's memory, where the system says."""
    pages = pathlib.Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


@pytest.fixture(autouse=True)
def environment():
    """Restores the environment after each test.

    A law's printed program that a test runs sets XLA_FLAGS. A later test's subprocess would inherit
    them, compile with other flags than this process, and differ from it in the last bit.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets compiled programs before they use up memory, or the process's memory maps.

    Each takes a few maps and one or two MB; at the kernel's limit of maps (65,530 by default)
    compiling fails with "LLVM compilation error: Cannot allocate memory". What is needed again is
    read from the run's folder.
    """
    yield
    if resident() > LARGE:
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)  # glibc keeps what is freed
