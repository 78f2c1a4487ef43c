import numpy as np
import pytest

from stackedae.labelled import Labelled, aside_of, concatenated, features_in, with_features

X = np.arange(12.0).reshape(6, 2)


@pytest.fixture
def rows():
    return Labelled(X, {"row": np.arange(6), "y": np.arange(18).reshape(6, 3)})


@pytest.mark.parametrize(
    "which",
    [slice(1, 4), np.array([4, 0, 4]), np.arange(6) % 2 == 0],
    ids=["slice", "indices", "mask"],
)
def test_what_is_beside_rows_goes_with_them(rows, which):
    some = rows[which]
    assert some.X.tolist() == X[which].tolist()
    assert some.aside["row"].tolist() == np.arange(6)[which].tolist()
    assert some.aside["y"].tolist() == (3 * np.arange(6)[which][:, None] + [0, 1, 2]).tolist()
    assert len(some) == len(X[which])


def test_rows_and_what_is_beside_them_can_be_told_apart(rows):
    assert features_in(rows) is X
    assert features_in(X) is X
    assert aside_of(rows) is rows.aside
    assert aside_of(X) == {}


def test_other_features_keep_what_is_beside(rows):
    codes = -X[:, :1]
    other = with_features(rows, codes)
    assert other.X is codes
    assert other.aside is rows.aside
    assert with_features(X, codes) is codes


def test_parts_are_put_together_again(rows):
    assert concatenated([rows]) is rows
    whole = concatenated([rows[:1], rows[1:1], rows[1:]])
    assert whole.X.tolist() == X.tolist()
    assert {name: each.tolist() for name, each in whole.aside.items()} == {
        name: each.tolist() for name, each in rows.aside.items()
    }
    assert concatenated([X[:2], X[2:]]).tolist() == X.tolist()
