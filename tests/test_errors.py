import pickle

from stackedae.errors import ArgumentError, DamagedChunkError, DataError, StoreExistsError


def test_errors_survive_a_trip_to_a_worker_and_back():
    error = ArgumentError("alpha", -1, "is negative", "pass 0 or more")
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert str(again) == str(error) == "alpha=-1 is negative; pass 0 or more."


def test_strings_are_shown_with_quotes_and_long_values_cut():
    assert str(ArgumentError("solver", "sgd", "is unknown", "x")).startswith("solver='sgd' is")
    assert len(str(ArgumentError("images", "x" * 1000, "is", "y"))) < 150


def test_errors_are_of_the_kinds_that_users_catch():
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(DataError, ValueError)
    assert issubclass(StoreExistsError, FileExistsError)
    assert issubclass(DamagedChunkError, OSError)
