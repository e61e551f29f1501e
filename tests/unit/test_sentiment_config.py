"""The flags of the sentiment task."""

from typing import Any

import pytest

from pipelines.sentiment.config import Config


def test_epochs_rate_and_batch_follow_the_encoder_where_they_are_not_given() -> None:
    scratch, tuned = Config(), Config(encoder="some/encoder", lr=1e-4)
    assert (scratch.epochs, scratch.lr, scratch.batch_size) == (10, 1e-2, 64)
    assert (tuned.epochs, tuned.lr, tuned.batch_size) == (3, 1e-4, 32)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"dataset": "imdb"}, "--dataset is 'imdb'"),
        ({"max_tokens": 1}, "--max-tokens"),
        ({"max_characters": 0}, "--max-characters"),
        ({"vocabulary": 100}, "--vocabulary"),
        ({"ngrams": 0}, "--ngrams"),
        ({"epochs": -1}, "--epochs"),
        ({"text_column": "label"}, "--text-column"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_a_value_out_of_range_is_named(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Config(**flags)
