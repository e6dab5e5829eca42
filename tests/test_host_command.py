"""What hosts were started with, and how it differs."""

import pytest

from configs import common
from vse_jax import host_command, run_config
from vse_jax.host_command import describe, difference


def command(**options):
    config = common.get_config()
    config.update(options)
    return describe({"mode": "train", "query": ["a dog"]}, run_config.flatten(config))


def test_equal_commands_do_not_differ():
    assert not difference(1, command(), command())


def test_options_of_one_host_may_differ():
    own = {"coordinator": "a:1", "process_id": 3, "compilation_cache": "/tmp/cache"}
    assert not difference(1, command(**own), command())
    for option in host_command.OWN_OPTIONS:
        assert run_config.value_of(common.get_config(), option) is not None


def test_first_difference_is_named():
    other = command(batch_size=64, optimizer={"learning_rate": 1.0}, epochs=2)
    found = difference(3, other, command())
    assert found.startswith(
        "host 3 was started with --config.batch_size=64, host 0 with "
        "--config.batch_size=128 (2 more differ); start the same command"
    )


def test_other_code_is_named(monkeypatch, tmp_path):
    """Such as after an update that failed on one host."""
    expected = command()
    package = tmp_path / "vse_jax"
    package.mkdir()
    monkeypatch.setattr(host_command, "__file__", str(package / "host_command.py"))
    (package / "losses.py").write_text("MARGIN = 0.2\n")
    one = command()
    (package / "losses.py").write_text("MARGIN = 0.3\n")
    two = command()
    assert difference(1, one, expected).startswith("host 1 was started with code of ")
    assert difference(1, two, one)


@pytest.mark.parametrize("name", ["--query", "--config.epochs"])
def test_absent_and_long_values_are_shortened(name):
    found = difference(1, {name: "a" * 5000}, {})
    assert len(found) < 400
    assert f"{name}=aaa" in found
    assert "host 0 with " in found
    assert "(absent)" in found
