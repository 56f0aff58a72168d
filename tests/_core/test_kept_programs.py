"""Compiled programs that are kept between runs."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from trainkit._core import kept_programs
from trainkit._core.kept_programs import COMPILED, DigestWriter, drop_damaged, keep_compiled


@pytest.fixture
def unset_cache():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
        "jax_enable_compilation_cache",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_of_compiled_programs_is_set_once(tmp_path, unset_cache):
    first = keep_compiled(tmp_path / "a")
    assert keep_compiled(tmp_path / "b") == first
    assert first.parent == tmp_path / "a"


def test_compiled_programs_are_kept_by_what_made_them_and_for_oneself(
    tmp_path, unset_cache, monkeypatch
):
    first = keep_compiled(tmp_path)
    assert first.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_compiled(tmp_path) != first
    monkeypatch.undo()
    monkeypatch.setattr(kept_programs, "_processor", lambda: "one without AVX-512")
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_compiled(tmp_path) != first
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", None)
    first.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write into it"):
        keep_compiled(tmp_path)


def test_compiled_programs_need_not_be_kept(tmp_path, unset_cache):
    assert keep_compiled(tmp_path / "none", enabled=False) is None
    assert not (tmp_path / "none").exists()
    assert not jax.config.jax_enable_compilation_cache


def test_a_kept_program_that_is_not_what_was_written_is_dropped(tmp_path, unset_cache):
    compilation_cache.reset_cache()
    folder = keep_compiled(tmp_path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    (name,) = [file.name for file in folder.iterdir() if file.name.startswith("jit__lambda")][:1]
    program = folder / name.removesuffix(".digest")
    content = program.read_bytes()
    for damage in (content[:-1], b"", content[:9] + b"?" + content[10:], content + b"0", None):
        drop_damaged(folder)
        assert program.read_bytes() == content
        if damage is None:
            program.with_name(program.name + ".digest").unlink()  # as a kill leaves it
        else:
            program.write_bytes(damage)
        drop_damaged(folder)
        assert not program.exists()
        program.write_bytes(content)
        DigestWriter(folder)(COMPILED, 0.0)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
