"""How long is waited until what has failed is tried again."""

from services.patience import pause_s


def test_each_failure_doubles_the_pause_up_to_the_longest():
    assert [pause_s(1.0, count, 5.0) for count in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_has_failed_for_days_is_tried_again_after_the_longest_pause():
    assert pause_s(2.0, 100_000, 60.0) == 60.0
