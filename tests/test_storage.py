import os
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr

from stackedae import ContrastNormalizer, StackedAutoEncoder, extract_patches, open_patches
from stackedae.errors import DamagedChunkError, StoreError
from stackedae.storage import read_lazily
from stackedae.stores import kind_of, new_store, open_store


@pytest.fixture
def store():
    image = np.random.default_rng(0).random((30, 30))
    extract_patches(image, (4, 4), 100, store="patches.zarr", chunks=10, rng=0)
    return Path("patches.zarr")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped bit": flip_a_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_chunk_is_named_and_never_computed_with(store, damage):
    damage(store / "patches/c/3/0/0")
    patches = open_patches(store)
    assert len(patches[:30].compute()) == 30
    with pytest.raises(DamagedChunkError, match=r"patches\.zarr: chunk patches/c/3/0/0 cannot be"):
        patches.compute()
    with pytest.raises(DamagedChunkError, match="chunk patches/c/3/0/0 cannot be read"):
        StackedAutoEncoder(2, max_iter=1).fit(patches)
    array = zarr.open_group(store, mode="r")["patches"]
    with pytest.raises(DamagedChunkError, match="chunk patches/c/3/0/0 cannot be read"):
        StackedAutoEncoder(2, max_iter=1).fit(array)


def test_a_damaged_chunk_is_named_across_processes(store, cluster):
    flip_a_bit(store / "patches/c/3/0/0")
    with cluster.as_current(), pytest.raises(DamagedChunkError, match="patches/c/3/0/0"):
        open_patches(store.resolve()).compute()


def test_a_missing_chunk_is_noticed_when_opening(store):
    os.remove(store / "patches/c/7/0/0")
    with pytest.raises(DamagedChunkError, match=r"1 of 10 chunks.*the first is patches/c/7/0/0"):
        open_patches(store)


def test_a_chunk_that_goes_missing_later_is_not_computed_with(store):
    array = zarr.open_group(store, mode="r")["patches"]
    patches = open_patches(store)
    normalised = ContrastNormalizer().fit_transform(patches)
    os.remove(store / "patches/c/7/0/0")
    for X, message in (
        (array, "1 of 10 chunks of 'patches' are missing, the first is patches/c/7/0/0"),
        (patches, "1 of 10 chunks of 'patches' are missing, the first is patches/c/7/0/0"),
        (normalised, "chunk patches/c/7/0/0 is missing"),
    ):
        with pytest.raises(DamagedChunkError, match=message):
            StackedAutoEncoder(2, max_iter=1).fit(X)


def test_a_damaged_coordinate_is_named(store):
    flip_a_bit(store / "y0/c/0")
    with pytest.raises(DamagedChunkError, match="y0/c/0"):
        open_patches(store)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.zarr", "there is no patches store; check the path"),
        (".", "not a patches store"),
        ("foreign.zarr", "this is a foreign Zarr store, not a patches store"),
        ("other.zarr", "this is a sculpture store, not a patches store"),
        ("later.zarr", "has format 99, and this version of stackedae reads formats up to 1"),
        ("half.zarr", "its writing was interrupted"),
    ],
)
def test_what_is_no_store_of_patches_is_refused(path, message):
    zarr.open_group("foreign.zarr", mode="w")
    with new_store("other.zarr", "sculpture", overwrite=False):
        pass
    for name, marker in (
        ("later.zarr", {"kind": "patches", "format": 99, "complete": True}),
        ("half.zarr", {"kind": "patches", "format": 1}),
    ):
        zarr.open_group(name, mode="w").attrs["stackedae"] = marker
    with pytest.raises(StoreError, match=message):
        open_patches(path)


class Unreachable(zarr.storage.MemoryStore):
    down = False  # of the class, because Zarr makes read-only copies

    async def get(self, *arguments, **options):
        if Unreachable.down:
            raise ConnectionError("no route to host")
        return await super().get(*arguments, **options)


class Flaky(zarr.storage.MemoryStore):
    failures = 0  # that are still to come; of the class, because Zarr makes read-only copies
    error = ConnectionError

    async def get(self, key, *arguments, **options):
        if "/c/" in key and Flaky.failures:
            Flaky.failures -= 1
            raise Flaky.error(f"the line went dead at {key}")
        return await super().get(key, *arguments, **options)


@pytest.fixture
def flaky():
    store = Flaky()
    image = np.random.default_rng(0).random((30, 30))
    extract_patches(image, (4, 4), 100, store=store, chunks=10, rng=0)
    yield store
    Flaky.failures, Flaky.error = 0, ConnectionError


@pytest.mark.parametrize("failures", [1, 3])
def test_an_error_that_passes_is_waited_out(flaky, caplog, failures):
    expected = StackedAutoEncoder(2, max_iter=2, tol=0, random_state=0).fit(open_patches(flaky))
    with dask.config.set({"stackedae.read.wait": "1ms"}):
        patches = open_patches(flaky)
        Flaky.failures = failures
        fitted = StackedAutoEncoder(2, max_iter=2, tol=0, random_state=0).fit(patches)
    assert (fitted.components_ == expected.components_).all()
    assert caplog.text.count("the line went dead") >= 1


def test_an_error_that_stays_names_store_and_chunk(flaky):
    with dask.config.set({"stackedae.read.wait": "1ms", "stackedae.read.retries": 2}):
        patches = open_patches(flaky)
        Flaky.failures = 10**6
        message = (
            r"memory://.*: chunk patches/c/\d/0/0 cannot be read, in 3 attempts \(the line went"
        )
        with pytest.raises(StoreError, match=message):
            StackedAutoEncoder(2, max_iter=1).fit(patches)


def test_what_is_damaged_is_not_tried_again(flaky):
    Flaky.error = ValueError
    patches = open_patches(flaky)  # would wait for seconds
    Flaky.failures = 10**6
    with pytest.raises(DamagedChunkError, match=r"chunk patches/c/\d/0/0 cannot be read"):
        patches[:10].compute()


def test_a_chunk_of_bytes_that_is_missing_is_noticed():
    image = np.random.default_rng(0).integers(0, 255, (30, 30), dtype=np.uint8)
    extract_patches(image, (4, 4), 100, store="b.zarr", chunks=10, dtype="uint8", rng=0)
    patches = open_patches("b.zarr")
    os.remove("b.zarr/patches/c/7/0/0")
    with pytest.raises(DamagedChunkError, match="chunk patches/c/7/0/0 is missing"):
        patches.compute()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_store_that_cannot_be_asked_is_not_taken_for_empty(monkeypatch, overwrite):
    remote = Unreachable()
    extract_patches(np.ones((9, 9)), (4, 4), 20, store=remote)
    with monkeypatch.context() as context:
        context.setattr(Unreachable, "down", True)
        with pytest.raises(StoreError, match=r"what is there cannot be read \(no route to host\)"):
            extract_patches(np.zeros((9, 9)), (4, 4), 20, store=remote, overwrite=overwrite)
    assert (open_patches(remote) == 1).all()


def test_a_url_that_cannot_be_used_is_named():
    with pytest.raises(StoreError, match=r"nowhere://bucket/a\.zarr: what is there cannot be read"):
        extract_patches(np.zeros((9, 9)), (4, 4), 20, store="nowhere://bucket/a.zarr")


def test_behind_a_link_the_store_is_replaced():
    os.mkdir("disk")
    extract_patches(np.zeros((9, 9)), (4, 4), 20, store="disk/a.zarr")
    os.symlink("disk/a.zarr", "link.zarr")
    extract_patches(np.ones((9, 9)), (4, 4), 20, store="link.zarr", overwrite=True)
    assert (open_patches("disk/a.zarr") == 1).all()
    assert os.path.islink("link.zarr")
    assert sorted(os.listdir() + os.listdir("disk")) == ["a.zarr", "disk", "link.zarr"]


def test_a_missing_array_is_refused():
    with new_store("a.zarr", "patches", overwrite=False):
        pass
    with pytest.raises(StoreError, match="the array 'patches' is missing"):
        open_patches("a.zarr")


def test_kind_of_a_store(store):
    assert kind_of(store) == "patches"
    zarr.open_group("foreign.zarr", mode="w")
    for path in ("foreign.zarr", "nothing.zarr"):
        with pytest.raises(StoreError):
            kind_of(path)


def test_an_overwritten_array_is_not_answered_from_memory(store):
    array = open_store(store, "patches")["patches"]
    before = read_lazily(array).persist()
    extract_patches(np.zeros((9, 9)), (4, 4), 100, store=store, chunks=10, overwrite=True)
    after = read_lazily(open_store(store, "patches")["patches"])
    assert before.sum().compute() > 0
    assert after.sum().compute() == 0


def test_shards_are_read_as_one_block():
    array = zarr.create_array(
        {}, data=np.arange(40.0).reshape(20, 2), chunks=(2, 2), shards=(10, 2)
    )
    lazy = read_lazily(array)
    assert lazy.chunks == ((10, 10), (2,))
    assert (lazy.compute() == array[:]).all()
