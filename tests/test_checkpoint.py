"""Clients that die: what was written down goes on to the same bits, or is refused by name."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from records import timeless

from stackedae import StackedAutoEncoder, extract_patches
from stackedae.errors import ArgumentError, CheckpointError, DataError, StackedAEError, StoreError

SETTINGS = {"hidden_layer_sizes": (5, 3), "max_iter": 6, "tol": 0, "random_state": 0}
RUN = Path("run.zarr")


class StopHereError(Exception):
    """What a test ends training with."""


def estimator(**settings):
    return StackedAutoEncoder(**{**SETTINGS, "checkpoint": RUN, **settings})


def stopping_after(n):
    left = [n]

    def callback(record):
        left[0] -= 1
        if left[0] == 0:
            raise StopHereError

    return callback


def begun(X, n=4, **settings):
    """Leave a checkpoint of a fit that stopped after some iterations."""
    with pytest.raises(StopHereError):
        estimator(**settings).fit(X, callback=stopping_after(n))


def assert_same(one, other):
    for a, b in zip(one.layers_, other.layers_, strict=True):
        assert a.params.tobytes() == b.params.tobytes()
        assert a.mean_activations.tobytes() == b.mean_activations.tobytes()
        assert (a.cost, a.status) == (b.cost, b.status)
    # How long it took, and what a resumed fit reads again, are its own.
    assert timeless(one.history_, "bytes_read") == timeless(other.history_, "bytes_read")


@pytest.fixture(scope="module")
def X():
    X = np.random.default_rng(0).random((17_000, 12), dtype=np.float32)
    X[:, 6:] = X[:, :6] ** 2
    return X


@pytest.fixture(scope="module")
def stopped(X, tmp_path_factory):
    """Checkpoints of a fit that stopped after its eighth iteration, and wrote after each."""
    where = tmp_path_factory.mktemp("stopped") / RUN
    begun(X, 8, checkpoint=where, checkpoint_every=1)
    return where


@pytest.fixture(scope="module")
def undisturbed(X):
    known = {}

    def of(**settings):
        key = repr(sorted(settings.items()))
        if key not in known:
            known[key] = StackedAutoEncoder(**{**SETTINGS, **settings}).fit(X)
        return known[key]

    return of


@pytest.mark.parametrize(
    "settings",
    [{}, {"batching": "full"}, {"solver": "gd"}, {"sparsity_weight": (3.0, 0.0)}],
    ids=["progressive", "full", "gd", "without sparsity"],
)
def test_it_goes_on_from_anywhere(X, undisturbed, settings):
    whole = undisturbed(**settings)
    for n in range(1, whole.n_iter_ + 1, 9):
        shutil.rmtree(RUN, ignore_errors=True)
        begun(X, n, checkpoint_every="1h", **settings)
        assert_same(estimator(**settings).fit(X), whole)


@pytest.mark.parametrize("batching", ["full", "progressive"])
def test_it_goes_on_where_pixels_are_missing(X, batching):
    gaps = np.random.default_rng(1).random(X.shape) < 0.2
    X = np.where(gaps, np.float32(np.nan), X)
    settings = {"missing": "mask", "batching": batching}
    whole = StackedAutoEncoder(**{**SETTINGS, **settings}).fit(X)
    for n in (1, whole.n_iter_ // 2, whole.n_iter_):
        shutil.rmtree(RUN, ignore_errors=True)
        begun(X, n, checkpoint_every="1h", **settings)
        assert_same(estimator(**settings).fit(X), whole)


def test_after_the_end_it_returns_what_was_learned(X, undisturbed):
    first = estimator().fit(X)
    n_told = []
    again = estimator().fit(X, callback=n_told.append)
    assert_same(first, again)
    assert_same(first, undisturbed())
    assert not n_told
    assert len(again.info["earlier_runs"]) == 1


def test_after_the_end_no_features_are_computed(X, monkeypatch):
    estimator().fit(X)
    monkeypatch.delattr("stackedae.training.features_of")
    estimator().fit(X)


def test_bad_data_leave_no_checkpoint_behind(X):
    bad = X.copy()
    bad[7, 3] = np.nan
    with pytest.raises(DataError, match="row 7"):
        estimator().fit(bad)
    assert not RUN.exists()


def test_a_seed_that_nobody_gave_is_kept(X):
    begun(X, random_state=None)
    first, second = (estimator(random_state=None).fit(X) for _ in range(2))
    assert_same(first, second)
    assert first.info["seed"] == second.info["seed"]


@pytest.mark.parametrize("make", [zarr.storage.MemoryStore, lambda: "memory://bucket/run.zarr"])
def test_any_store_will_do(X, undisturbed, make):
    store = make()
    begun(X, 8, checkpoint=store, checkpoint_every=3)
    assert_same(estimator(checkpoint=store).fit(X), undisturbed())


def test_two_generations_are_kept(stopped):
    names = sorted(os.listdir(stopped))
    assert len(names) == 3
    assert names[-1] == "zarr.json"
    assert int(names[1]) == int(names[0]) + 1


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"alpha": 0.1},
            r"run\.zarr: the checkpoint was written with alpha=0\.0001, and it is 0\.1",
        ),
        ({"hidden_layer_sizes": (5, 4)}, r"with hidden_layer_sizes=\[5, 3\], and it is \[5, 4\]"),
        ({"random_state": 1}, "with random_state=0, and it is 1"),
        ({"dtype": "float64"}, "with dtype='float32', and it is 'float64'"),
        ({"missing": "mask"}, "with missing='raise', and it is 'mask'"),
        ({"max_iter": 7}, "with max_iter=6, and it is 7"),
    ],
)
def test_other_parameters_are_refused(X, settings, message):
    begun(X)
    with pytest.raises(CheckpointError, match=message):
        estimator(**settings).fit(X)


def test_another_version_is_refused(X, monkeypatch):
    begun(X)
    monkeypatch.setattr("stackedae.base.__version__", "9.0")
    with pytest.raises(CheckpointError, match=r"with version='.*', and it is '9\.0' now"):
        estimator().fit(X)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda X: X[:-1], "n_samples=17000, and it is 16999"),
        (lambda X: X[:, :-1], "n_features=12, and it is 11"),
        (lambda X: np.where(X[1000, 3] == X, 0.5, X).astype(X.dtype), "crc32="),
        (lambda X: X.astype(float), "dtype='float64'|crc32="),
    ],
    ids=["fewer samples", "fewer features", "one value", "another precision"],
)
def test_other_data_are_refused(X, change, field, request):
    begun(X)
    changed = change(X)
    if request.node.callspec.id == "another precision":
        # Worked with in float32, the same numbers are the same data.
        assert_same(estimator().fit(changed), StackedAutoEncoder(**SETTINGS).fit(X))
        return
    with pytest.raises(CheckpointError, match=rf"run\.zarr, on data: .* with {field}"):
        estimator().fit(changed)


def test_chunks_that_changed_places_are_noticed(X):
    stored = zarr.create_array("x.zarr", data=X, chunks=(8500, 12))
    begun(stored)
    chunks = Path("x.zarr/c")
    (chunks / "0").rename("chunk")
    (chunks / "1").rename(chunks / "0")
    Path("chunk").rename(chunks / "1")
    with pytest.raises(CheckpointError, match=r"on data: .* with sample=\d+, and it is \d+ now"):
        estimator().fit(stored)


def test_what_is_no_checkpoint_is_refused(X):
    StackedAutoEncoder(2, max_iter=1, tol=0).fit(X[:50]).save(RUN)
    with pytest.raises(StoreError, match="this is a model store, not a checkpoint store"):
        estimator().fit(X)
    shutil.rmtree(RUN)
    extract_patches(np.zeros((9, 9)), (2, 2), 3, store=RUN)
    with pytest.raises(StoreError, match="this is a patches store, not a checkpoint store"):
        estimator().fit(X)
    shutil.rmtree(RUN)
    RUN.write_text("notes")
    with pytest.raises(StoreError, match="not a checkpoint store"):
        estimator().fit(X)
    assert RUN.read_text() == "notes"


@pytest.mark.parametrize("every", [0, -1, 2.5, "often", "-3s", True, None])
def test_how_often_has_to_be_iterations_or_a_time(X, every):
    with pytest.raises(ArgumentError, match="checkpoint_every="):
        estimator(checkpoint_every=every).fit(X)


# --- damaged ----------------------------------------------------------------------------------


def newest():
    return sorted(path for path in RUN.iterdir() if path.is_dir())[-1]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_iteration(folder):
    path = folder / "zarr.json"
    path.write_text(path.read_text().replace('"iteration": ', '"iteration": 1'))


DAMAGE = {
    "flipped bit": lambda folder: flip(folder / "state/params/c/0"),
    "truncated": lambda folder: os.truncate(folder / "state/gradient/c/0", 7),
    "zeroed": lambda folder: (folder / "state/params/c/0").write_bytes(bytes(1000)),
    "chunk gone": lambda folder: os.remove(folder / "state/s/c/0/0"),
    "array gone": lambda folder: shutil.rmtree(folder / "history"),
    "document gone": lambda folder: os.remove(folder / "zarr.json"),
    "number changed": change_iteration,
    "emptied": lambda folder: (folder / "zarr.json").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_one_that_is_damaged_is_passed_over(X, stopped, undisturbed, caplog, damage):
    shutil.copytree(stopped, RUN)
    folder = newest()
    damage(folder)
    with caplog.at_level(logging.WARNING, "stackedae"):
        assert_same(estimator().fit(X), undisturbed())
    assert folder.name in caplog.text


def test_if_all_are_damaged_that_is_said(X, stopped):
    shutil.copytree(stopped, RUN)
    for folder in RUN.iterdir():
        if folder.is_dir():
            flip(folder / "state/params/c/0")
    with pytest.raises(CheckpointError, match=r"no older one that can be read; remove run\.zarr"):
        estimator().fit(X)


def test_a_number_of_another_kind_is_refused_though_the_checksum_is_right(X, stopped):
    shutil.copytree(stopped, RUN)
    for folder in (path for path in RUN.iterdir() if path.is_dir()):
        group = zarr.open_group(folder, mode="r+")
        values = group.attrs["progress"]
        values["now"]["state"]["iteration"] = "rm -rf"
        text = json.dumps(values, sort_keys=True).encode()
        group.attrs["progress"] = values
        group.attrs["stackedae"] = {**group.attrs["stackedae"], "crc32": zlib.crc32(text)}
    with pytest.raises(StackedAEError, match="the checkpoint is not as it was written"):
        estimator().fit(X)


# --- disks and processes ----------------------------------------------------------------------


def test_a_full_disk_does_not_end_the_fit(X, undisturbed, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        run = disk / "run.zarr"
        filled = []

        def callback(record):
            if record["layer"] == 0 and record["iteration"] == 3 and not filled:
                with pytest.raises(OSError, match="No space left"):
                    (disk / "full").write_bytes(bytes(10**6))
                filled.append(True)

        with caplog.at_level(logging.WARNING, "stackedae"):
            sae = estimator(checkpoint=run, checkpoint_every=1).fit(X, callback=callback)
        assert "the checkpoint could not be written ([Errno 28] No space left" in caplog.text
        assert_same(sae, undisturbed())
        os.remove(disk / "full")
        assert_same(estimator(checkpoint=run).fit(X), undisturbed())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_where_nothing_can_be_written_no_work_begins(X):
    told = []
    with pytest.raises(OSError, match=r"Not a directory|No such file|File exists"):
        estimator(checkpoint="/dev/full/run.zarr").fit(X, callback=told.append)
    assert not told


SCRIPT = """
import os, signal, sys
import numpy as np
from pathlib import Path
from stackedae import StackedAutoEncoder
X = np.random.default_rng(0).random((17_000, 12), dtype=np.float32)
X[:, 6:] = X[:, :6] ** 2
left = int(sys.argv[2])
def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
owner, name = sys.argv[1].split(":")
owner = {"Path": Path, "os": os}[owner]
setattr(owner, name, dying(getattr(owner, name)))
StackedAutoEncoder((5, 3), max_iter=6, tol=0, random_state=0, checkpoint="run.zarr",
                   checkpoint_every=1).fit(X)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("call", "n"),
    [("Path:rename", 1), ("Path:rename", 4), ("os:fsync", 1), ("os:fsync", 70), ("os:rmdir", 9)],
    ids=[
        "before the first is renamed",
        "between temporary name and rename",
        "before the first is on the disk",
        "before the next is on the disk",
        "while an old one is removed",
    ],
)
def test_killed_while_writing(X, undisturbed, call, n):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, call, str(n)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert_same(estimator(checkpoint_every=1).fit(X), undisturbed())
    assert not [name for name in os.listdir(RUN) if name.startswith(".")]


@pytest.mark.long
def test_clients_killed_at_random_moments():
    script = Path(__file__).parents[1] / "benchmarks/faults.py"
    words = [sys.executable, script, "--only", "clients", "--kills", "15", "--seed", "2"]
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=300)
    print(ran.stdout)
    assert ran.returncode == 0
    assert "went on to the same bits" in ran.stdout
