import io

import numpy as np
import pytest

from tests import damaged_npz
from vse_jax.array_files import read_npz

ARRAYS = {
    "a/words": np.arange(40, dtype=np.int32).reshape(8, 5),
    "name": np.array("some text"),
    "empty": np.zeros((0, 3), np.float16),
}


def stored(save=np.savez):
    buffer = io.BytesIO()
    save(buffer, **ARRAYS)
    return buffer.getvalue()


def assert_equal(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_were_saved(save):
    assert_equal(read_npz(stored(save)))


@pytest.mark.parametrize("damage", damaged_npz.WAYS)
def test_damage_is_a_value_error(damage):
    with pytest.raises(ValueError, match=r"Error|BadZipFile"):
        read_npz(damage(stored()))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_give_no_other_error_and_no_other_values(save):
    content, rng = stored(save), np.random.default_rng(0)
    for _ in range(1500):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 4))
        damaged[places] = rng.integers(256, size=len(places))
        try:
            found = read_npz(damaged.tobytes()[: rng.choice([None, -5])])
        except ValueError:
            continue
        for name in found.keys() & ARRAYS.keys():
            np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_pickled_objects_are_refused():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(buffer.getvalue())
