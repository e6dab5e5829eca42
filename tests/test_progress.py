import types

from vse_jax import progress


def test_line_has_speed_and_time_left(caplog, monkeypatch):
    seconds = iter((100.0, 110.0, 140.0))
    clock = types.SimpleNamespace(perf_counter=lambda: next(seconds))
    # Replaces the clock of this module only, since other threads read the global one.
    monkeypatch.setattr(progress, "time", clock)
    with (
        caplog.at_level("INFO"),
        progress.Progress("extracting", 1_000, "images", done=100) as shown,
    ):
        for _ in range(3):
            shown.add(200)
    # The clock starts after the first 200.
    assert caplog.messages == [
        "extracting: 700/1,000 images  10.0 images/s  0:00:30 left"
    ]
