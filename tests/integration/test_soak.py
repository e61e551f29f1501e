"""A server under a minute of mixed load keeps its memory, descriptors and threads."""

from benchmarks import soak


def test_a_minute_of_load_leaves_memory_descriptors_and_threads_as_they_were():
    report = soak.run(60, 20, 0.05, 0, print)
    assert report.problems == [], report.summary
    assert report.summary.count > 1000
    assert {"OK", "INVALID_ARGUMENT", "cancelled CANCELLED"} <= set(report.summary.codes)
