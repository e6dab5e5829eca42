import types

from vse_jax import progress


def test_nothing_done_so_far_is_no_line(caplog, monkeypatch):
    """Megabytes are counted, and a file may have less than one."""
    seconds = iter((100.0, 140.0, 150.0))
    clock = types.SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr(progress, "time", clock)
    with caplog.at_level("INFO"), progress.Progress("copying", 9, "MiB") as shown:
        for megabytes in (0, 0, 5):
            shown.add(megabytes)
    assert caplog.messages == ["copying: 5/9 MiB  0.1 MiB/s  0:00:40 left"]


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
