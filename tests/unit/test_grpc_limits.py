"""What gRPC has no number for is refused with its flag, and the greatest numbers are taken."""

from typing import Any

import pytest

from services import transport
from services.options import GREATEST, Options


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"max_connection_age_s": 2_592_000.0},
            "--max-connection-age-s is 2592000.0; the most allowed is 2147483",
        ),
        (
            {"max_message_bytes": 2**31, "max_held_bytes": 2**31},
            "--max-message-bytes is 2147483648; the most allowed is 2147483647",
        ),
    ],
)
def test_more_than_grpc_can_count_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Options(**given)


def test_the_greatest_that_is_allowed_is_what_grpc_takes() -> None:
    given = Options(max_message_bytes=GREATEST, max_held_bytes=GREATEST, max_connection_age_s=GREATEST // 1000)
    assert all(-1 <= value <= GREATEST for _, value in transport.arguments(given))
