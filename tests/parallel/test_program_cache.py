import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax._src import compilation_cache

from vse_jax.parallel import program_cache


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, monkeypatch):
    """A folder of the cache, which takes every program."""
    found = tmp_path if request.param == "local" else request.getfixturevalue("bucket")
    before = jax.config.values.copy()
    monkeypatch.setattr(
        compilation_cache, "get_executable_and_time", program_cache._read
    )
    compilation_cache.reset_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    program_cache.use_folder(epath.Path(found))
    yield epath.Path(found)
    for name in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs"):
        jax.config.update(f"jax_{name}", before[f"jax_{name}"])
    compilation_cache.reset_cache()


def compile_program():
    """Compiles a program or takes it from the cache."""
    numbers = jax.ShapeDtypeStruct((8,), "float32")
    return jax.jit(lambda x: jnp.sin(x) + 1).lower(numbers).compile()


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.filterwarnings("error")
def test_damaged_entry_is_replaced(folder, caplog, share):
    compile_program()
    (entry,) = folder.glob("*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: int(share * len(whole))])
    result = compile_program()(jnp.zeros(8))
    assert result.tolist() == [1] * 8
    assert f"{entry} is damaged" in caplog.text
    assert len(entry.read_bytes()) > 0.9 * len(whole)
    caplog.clear()
    compile_program()
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:Error reading persistent")
def test_entry_that_cannot_be_read_is_kept(folder, monkeypatch):
    compile_program()
    (entry,) = folder.glob("*-cache")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(program_cache, "_read", refuse)
    compile_program()
    assert entry.exists()
