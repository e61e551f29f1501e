"""Tables line up, whatever is in them."""

from eagerly.table import render


def test_numbers_stand_right_and_words_left() -> None:
    assert render(("name", "value"), [("loss", 0.5), ("long name", 12.25)]) == "\n".join(
        ["name         value", "---------  -------", "loss        0.5000", "long name  12.2500"]
    )


def test_a_table_without_rows_is_its_header() -> None:
    assert render(("model", "version"), []) == "model  version\n-----  -------"


def test_wide_characters_take_two_columns() -> None:
    lines = render(("text", "label"), [("很好吃", "positive"), ("film", "negative")]).splitlines()
    assert lines[2] == "很好吃  positive"
    assert lines[3] == "film    negative"
