"""Metrics: plain numbers inside, Prometheus text outside."""

import pytest

from server.telemetry.metrics import CONTENT_TYPE, Histogram, Metrics


def lines(metrics: Metrics) -> dict[str, float]:
    rows = (line.rpartition(" ") for line in metrics.render().decode().splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in rows}


def test_what_was_counted_is_shown() -> None:
    metrics = Metrics()
    metrics.frames += 3
    metrics.connections = 2
    metrics.outbox_bytes = 100
    metrics.turns["completed"] += 1
    metrics.errors["bad_request"] += 2
    metrics.closes["4001"] += 4
    shown = lines(metrics)
    assert shown["parley_frames_total"] == 3
    assert shown["parley_connections"] == 2
    assert shown["parley_outbox_bytes"] == 100
    assert shown['parley_turns_total{outcome="completed"}'] == 1
    assert shown['parley_errors_total{code="bad_request"}'] == 2
    assert shown['parley_closes_total{code="4001"}'] == 4


def test_two_scrapes_show_two_moments() -> None:
    metrics = Metrics()
    assert lines(metrics)["parley_frames_total"] == 0
    metrics.frames += 1
    assert lines(metrics)["parley_frames_total"] == 1


def test_every_metric_of_the_reference_is_there_from_the_start() -> None:
    text = Metrics().render().decode()
    for name in (
        "parley_turns_total", "parley_turn_seconds", "parley_connections", "parley_frames_total",
        "parley_errors_total", "parley_closes_total", "parley_outbox_bytes", "parley_commits_total",
        "parley_effects_total", "parley_store_seconds", "process_cpu_seconds_total",
        "process_resident_memory_bytes", "process_open_fds",
    ):  # fmt: skip
        assert f"# TYPE {name} " in text


def test_what_another_part_counts_is_read_at_a_scrape() -> None:
    metrics, counts = Metrics(), {"committed": 1, "conflict": 0}
    metrics.read("parley_commits_total", "Commits.", "counter", lambda: counts, label="outcome")
    counts["conflict"] += 5
    shown = lines(metrics)
    assert shown['parley_commits_total{outcome="committed"}'] == 1
    assert shown['parley_commits_total{outcome="conflict"}'] == 5
    assert metrics.render().decode().count("# TYPE parley_commits_total") == 1


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.frames += 1
    assert lines(second)["parley_frames_total"] == 0


def test_a_histogram_counts_at_or_below_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 0.3, 99.0):
        metrics.turn_seconds.observe(seconds)
    shown = lines(metrics)
    assert shown['parley_turn_seconds_bucket{le="0.001"}'] == 1
    assert shown['parley_turn_seconds_bucket{le="0.0025"}'] == 2
    assert shown['parley_turn_seconds_bucket{le="30.0"}'] == 3
    assert shown['parley_turn_seconds_bucket{le="+Inf"}'] == 4
    assert shown["parley_turn_seconds_count"] == 4
    assert shown["parley_turn_seconds_sum"] == pytest.approx(99.3021)


def test_a_histogram_knows_its_count_and_sum() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5)
    assert (histogram.count, histogram.sum) == (1, 1.5)


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.errors['a"\n\\'] += 1
    assert 'code="a\\"\\n\\\\"' in metrics.render().decode()


def test_the_content_type_is_that_of_the_text_format() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")
