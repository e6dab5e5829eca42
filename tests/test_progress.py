from vse_jax import progress


def test_line_has_speed_and_time_left(caplog, monkeypatch):
    seconds = iter((100.0, 110.0, 140.0))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(seconds))
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


def test_tracked_items_are_counted():
    shown = progress.Progress("reading", 3, "captions")
    assert list(shown.track("abc")) == ["a", "b", "c"]
    assert shown._done == 3
