"""Reading ratings and items in every layout, bad files included, and splitting by the seed."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.examples import Draw
from pipelines.recommender import data, tables, text
from pipelines.recommender.config import Config
from pipelines.recommender.histories import Histories
from pipelines.recommender.tables import Item

USERS, ITEMS = 8, 25
PAIRS = [(user, item) for user in range(USERS) for item in range(ITEMS) if (user + item) % 2]


def goodbooks(folder: Path, rows: str = "", items: str = "") -> Config:
    """Writes a small data set in goodbooks' layout; `rows` and `items` are added to its files."""
    ratings = "".join(f"{user},{item},{1 + item % 5}\n" for user, item in PAIRS)
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n" + ratings + rows)
    books = "".join(
        f'{item},"Book {item} (Saga, #{item})","Ann Author, Bo Buch","epic,fantasy"\n' for item in range(ITEMS)
    )
    (folder / "books.csv").write_text("book_id,title,authors,genres\n" + books + items)
    return Config(data=str(folder))


def movielens(folder: Path) -> Config:
    """Writes the same ratings in MovieLens' layout."""
    ratings = "".join(f"{user},{item},{1 + item % 5}.0,964982703\n" for user, item in PAIRS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    movies = "".join(f'{item},"Film {item}, The (1999)",Comedy|Drama\n' for item in range(ITEMS))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies)
    return Config(ratings=str(folder / "ratings.csv"), items=str(folder / "movies.csv"))


def pairs(histories: Histories) -> set[tuple[int, int]]:
    """Lists who has what."""
    return set(zip(histories.users().tolist(), histories.items.tolist(), strict=True))


def test_the_embedded_sample_has_text_and_items_that_nobody_rated() -> None:
    found = data.load(Config())
    popularity_I = found.known.popularity(len(found.catalogue)) + found.held_back.popularity(len(found.catalogue))
    assert (len(found.user_ids), len(found.catalogue), int((popularity_I == 0).sum())) == (1200, 1260, 60)
    assert all(item.title and item.authors and item.genres for item in found.catalogue)


def test_goodbooks_layout_is_read_with_title_authors_and_genres(tmp_path: Path) -> None:
    found = data.load(goodbooks(tmp_path))
    assert found.catalogue[3] == Item("3", "Book 3 (Saga, #3)", ("Ann Author", "Bo Buch"), ("epic", "fantasy"))
    assert len(found.known.items) + len(found.held_back.items) == len(PAIRS)


def test_movielens_layout_is_read_with_title_and_genres(tmp_path: Path) -> None:
    found = data.load(movielens(tmp_path))
    assert found.catalogue[3] == Item("3", "Film 3, The (1999)", (), ("Comedy", "Drama"))
    assert len(found.user_ids) == USERS


def test_double_colon_layout_of_movielens_1m_is_read(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("".join(f"{user}::{item}::4::97830\n" for user, item in PAIRS))
    films = "".join(f"{item}::Fähre {item} (1999)::Comedy|Drama\n" for item in range(ITEMS))
    (tmp_path / "movies.dat").write_text(films, encoding="latin-1")
    found = data.load(Config(data=str(tmp_path)))
    assert found.catalogue[3] == Item("3", "Fähre 3 (1999)", (), ("Comedy", "Drama"))


def test_titles_of_movielens_10m_are_utf8_and_may_hold_any_letter(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("".join(f"{user}::{item}::4::97830\n" for user, item in PAIRS))
    films = "".join(f"{item}::Les Misérables på Ådalen {item}::Drama\r\n" for item in range(ITEMS))
    (tmp_path / "movies.dat").write_bytes(films.encode())
    assert data.load(Config(data=str(tmp_path))).catalogue[3] == Item("3", "Les Misérables på Ådalen 3", (), ("Drama",))


def test_tab_separated_layout_of_movielens_100k_is_read(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("".join(f"{user}\t{item}\t4\t97830\n" for user, item in PAIRS))
    flags = "|".join("1" if at in (1, 5) else "0" for at in range(19))
    films = "".join(f"{item}|Film {item}|01-Jan-1995||http://example.org|{flags}\n" for item in range(ITEMS))
    (tmp_path / "u.item").write_text(films)
    found = data.load(Config(data=str(tmp_path)))
    assert found.catalogue[3] == Item("3", "Film 3", (), ("Action", "Comedy"))


def test_gzipped_files_are_read_as_plain_ones(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    plain = data.load(config)
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert data.load(config).digest == plain.digest


def test_a_rated_item_without_a_row_keeps_its_place_without_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = data.load(goodbooks(tmp_path, rows="0,stray,5\n"))
    assert found.catalogue[-1] == Item("stray")
    assert "no row for 1 rated items" in caplog.text


def test_a_rating_that_occurs_twice_counts_once(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    once = data.load(config)
    goodbooks(tmp_path, rows="0,1,5\n0,1,2\n")
    assert data.load(config).digest == once.digest


def test_ratings_below_the_least_are_left_out(tmp_path: Path) -> None:
    config = replace(goodbooks(tmp_path), min_rating=2)
    found = data.load(config)
    everyone = pairs(found.known) | pairs(found.held_back)
    assert all(int(found.catalogue[item].id) % 5 != 0 for _, item in everyone)
    assert found.catalogue[0].id == "0"


def test_splits_share_nothing_and_together_are_everything(tmp_path: Path) -> None:
    found = data.load(goodbooks(tmp_path))
    train, known, test = pairs(found.learned), pairs(found.known), pairs(found.held_back)
    assert train < known
    assert not known & test
    assert len(known | test) == len(PAIRS)
    index_B = torch.arange(USERS)
    assert torch.equal(found.test.batch(index_B, None).seen, found.known.dense(index_B, ITEMS))
    assert torch.equal(found.valid.batch(index_B, None).seen, found.learned.dense(index_B, ITEMS))


def test_splits_are_the_same_for_a_seed_and_others_for_another(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    one, again, other = (data.load(replace(config, seed=seed)) for seed in (0, 0, 1))
    assert pairs(one.held_back) == pairs(again.held_back)
    assert pairs(one.held_back) != pairs(other.held_back)


def test_a_fifth_of_each_users_items_is_the_test_split() -> None:
    found = data.load(Config())
    whole_U = found.known.sizes() + found.held_back.sizes()
    assert torch.equal(found.held_back.sizes(), (whole_U * 0.2).round().long())


def test_training_sees_another_part_of_a_history_each_epoch_and_looks_for_all_of_it(tmp_path: Path) -> None:
    found = data.load(goodbooks(tmp_path))
    index_B = torch.arange(USERS)
    first, again, later = (found.train.batch(index_B, Draw(0, epoch)) for epoch in (0, 0, 1))
    assert torch.equal(first.seen, again.seen)
    assert not torch.equal(first.seen, later.seen)
    assert torch.equal(first.targets, found.learned.dense(index_B, ITEMS))
    assert bool((first.seen <= first.targets).all())


def test_what_training_sees_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    found = data.load(goodbooks(tmp_path))
    whole = found.train.batch(torch.arange(USERS), Draw(3, 2))
    part = found.train.batch(torch.tensor([5, 2]), Draw(3, 2))
    assert torch.equal(part.seen, whole.seen[[5, 2]])


def test_words_name_title_series_author_and_genre() -> None:
    found = text.words(Item("1", "Dune Messiah (Dune Chronicles #2)", ("Frank Herbert",), ("sci-fi",)))
    assert {"title dune", "series dune chronicles", "author frank herbert", "genre sci-fi"} <= set(found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2,many\n", r"ratings.csv, line 102: '1,2,many' is no rating"),
        ("1,2,nan\n", r"line 102: '1,2,nan' is no rating"),
        (",2,3\n", r"line 102: ',2,3' is no rating"),
        ("1,2\n", r"line 102: 2 fields where 3 are expected \(user_id, book_id, rating\)"),
        ('1,"2,3\n', r"line 102: unexpected end of data"),
    ],
)
def test_a_broken_row_names_file_and_line(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(goodbooks(tmp_path, rows=rows))


def test_a_file_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    path = tmp_path / "books.csv"
    path.write_bytes(path.read_bytes() + "99,Fähre,Bo,epic\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"books.csv, line 27: byte 0xe4 is not UTF-8"):
        data.load(config)


def test_an_unknown_column_lists_those_there_are(tmp_path: Path) -> None:
    config = movielens(tmp_path)
    (tmp_path / "ratings.csv").write_text("reader,movieId,rating\n1,2,3\n")
    with pytest.raises(ValueError, match=r"no column 'user_id'.*it has 'reader', 'movieid', 'rating'"):
        data.load(config)


def test_an_item_that_occurs_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"books.csv, line 27: item '3' occurs a second time"):
        data.load(goodbooks(tmp_path, items="3,Again,Bo,epic\n"))


@pytest.mark.parametrize("content", ["", "user_id,book_id,rating\n"])
def test_an_empty_ratings_file_is_refused(tmp_path: Path, content: str) -> None:
    config = goodbooks(tmp_path)
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(ValueError, match=r"ratings.csv (holds no ratings|has no column)"):
        data.load(config)


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    config = movielens(tmp_path)
    (tmp_path / "ratings.csv").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*ratings.csv: No such file or directory"):
        data.load(config)
    with pytest.raises(ValueError, match=r"has no ratings file; it would be one of ratings.csv"):
        data.load(Config(data=str(tmp_path)))
    with pytest.raises(ValueError, match=r"is no folder"):
        data.load(Config(data=str(tmp_path / "nowhere")))


def test_a_gzip_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    path = tmp_path / "ratings.csv"
    path.with_name("ratings.csv.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(ValueError, match=r"ratings.csv.gz: .*cut short or broken"):
        data.load(config)


def test_too_few_users_or_items_are_refused(tmp_path: Path) -> None:
    config = goodbooks(tmp_path)
    (tmp_path / "ratings.csv").write_text("user_id,book_id,rating\n1,1,5\n1,2,5\n1,3,5\n")
    with pytest.raises(ValueError, match=r"the data has 1 users with at least 3 items and 3 items"):
        data.load(config)
    with pytest.raises(ValueError, match=r"the data has 0 users .*--min-rating 6"):
        data.load(replace(goodbooks(tmp_path), min_rating=6))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": "netflix"}, "--dataset is 'netflix'"),
        ({"ratings": "r.csv"}, "--ratings is given without --items"),
        ({"items": "i.csv"}, "--items is given without --ratings"),
        ({"data": "folder", "ratings": "r.csv", "items": "i.csv"}, "--data is given with --ratings"),
        ({"dim": 0}, "--dim is 0"),
        ({"item_dropout": 1.0}, "--item-dropout is 1.0"),
        ({"min_rating": float("nan")}, "--min-rating is nan"),
    ],
)
def test_a_flag_out_of_range_is_named(flags: dict[str, str | int | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**flags)  # type: ignore[arg-type]


def test_the_files_of_a_folder_are_found_under_their_usual_names(tmp_path: Path) -> None:
    goodbooks(tmp_path)
    assert tables.locate(str(tmp_path)) == (tmp_path / "ratings.csv", tmp_path / "books.csv")
