"""What unit tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import training


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[training.Pair]":
    """Two processes that train together through gloo, started once for all tests."""
    import training

    both = training.Pair(tmp_path_factory.mktemp("pair"))
    yield both
    both.close()
