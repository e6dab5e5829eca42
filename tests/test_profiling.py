import jax.numpy as jnp
import pytest

from vse_jax.errors import InputError
from vse_jax.profiling import STEPS, Profile


def train(folder, first, start, stop):
    """Makes steps; returns after which of them there was a profile."""
    found = []
    with Profile(str(folder), first, 20) as profile:
        for step in range(start + 1, stop + 1):
            profile.before_step(step, jnp.ones(3))
            found.append(bool(list(folder.rglob("*.xplane.pb"))))
    return found.index(True) + start + 1 if True in found else None


def profiles(folder):
    return len(list(folder.rglob("*.xplane.pb")))


def test_some_steps_are_profiled_once(tmp_path):
    assert train(tmp_path, first=3, start=0, stop=20) == 3 + STEPS
    assert profiles(tmp_path) == 1


def test_profile_ends_with_the_training(tmp_path):
    assert train(tmp_path, first=18, start=0, stop=20) is None
    assert profiles(tmp_path) == 1


@pytest.mark.parametrize(("first", "lines"), [(0, 0), (3, 1)])
def test_nothing_is_profiled_without_the_step(tmp_path, caplog, first, lines):
    """As in a run that is resumed behind it, which is logged once."""
    caplog.set_level("INFO")
    assert train(tmp_path, first=first, start=4, stop=20) is None
    assert profiles(tmp_path) == 0
    assert caplog.text.count("set it to at least 5\n") == lines


def test_profile_behind_the_last_step_is_refused(tmp_path):
    with pytest.raises(InputError, match="21, but the training has 20 steps"):
        Profile(str(tmp_path), 21, 20)


def test_profile_that_cannot_be_written_is_logged(tmp_path, caplog):
    folder = tmp_path / "file"
    folder.touch()
    train(folder, first=1, start=0, stop=2)
    assert f"the profile cannot be written to {folder}: " in caplog.text
