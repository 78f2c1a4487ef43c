import gc
import os
import signal
import subprocess
import sys
import time

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from skimage.io import imsave

import stackedae.memory
from stackedae import extract_patches, open_patches
from stackedae.errors import ArgumentError, ImageError, StoreError, StoreExistsError

RNG = np.random.default_rng(0)
GREY = RNG.random((20, 30))
COLOUR = RNG.random((20, 30, 3))
DIFFERENT = [RNG.random((12, 17)), RNG.random((8, 8)), RNG.random((31, 9))]


def assert_cut_from(patches, images):
    """Check every patch against the slice of the image that its coordinates name."""
    h, w = patches.sizes["y"], patches.sizes["x"]
    values = patches.values
    for index, (image, y, x) in enumerate(
        zip(patches.image.values, patches.y0.values, patches.x0.values, strict=True)
    ):
        expected = np.asarray(images[image])[y : y + h, x : x + w]
        assert (values[index] == expected.astype(values.dtype)).all()


@pytest.mark.parametrize("store", [None, "patches.zarr"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("images", "as_list"),
    [
        (GREY, [GREY]),
        (COLOUR, [COLOUR]),
        (np.stack([GREY, GREY + 1]), [GREY, GREY + 1]),
        (np.stack([COLOUR, COLOUR + 1]), [COLOUR, COLOUR + 1]),
    ],
    ids=["grey", "colour", "stack", "colour stack"],
)
def test_patches_are_slices_of_their_images(images, as_list, lazy, store):
    source = da.from_array(images, chunks=11) if lazy else images
    patches = extract_patches(source, (5, 7), 50, store=store, rng=0)
    assert patches.dims == ("patch", "y", "x", "channel")[: 3 + (as_list[0].ndim == 3)]
    assert patches.dtype == np.float32
    assert len(patches) == 50
    assert isinstance(patches.data, da.Array) == (lazy or store is not None)
    assert_cut_from(patches, as_list)


def test_images_of_different_sizes():
    patches = extract_patches(DIFFERENT, (8, 8), 200, rng=0, dtype="float64")
    assert set(patches.image.values) == {0, 1, 2}
    assert_cut_from(patches, DIFFERENT)


@settings(max_examples=30, deadline=None)
@given(
    chunks=st.tuples(st.integers(1, 20), st.integers(1, 30)),
    patch=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rows=st.integers(1, 40),
)
def test_chunks_of_image_and_patches_do_not_matter(chunks, patch, rows):
    expected = extract_patches(GREY, patch, 40, rng=1)
    lazy = extract_patches(da.from_array(GREY, chunks=chunks), patch, 40, chunks=rows, rng=1)
    assert lazy.chunks[0][0] == min(rows, 40)
    xr.testing.assert_identical(lazy.compute(), expected)


def test_the_same_in_memory_lazily_and_stored(monkeypatch):
    monkeypatch.setattr(stackedae.memory, "BUFFER_BYTES", 10_000)  # several portions
    expected = extract_patches(DIFFERENT, (4, 4), 700, rng=3)
    stored = extract_patches(DIFFERENT, (4, 4), 700, rng=3, store="a.zarr", chunks=64)
    xr.testing.assert_identical(stored.compute(), expected)
    xr.testing.assert_identical(open_patches("a.zarr").compute(), expected)
    foreign = xr.open_zarr("a.zarr", consolidated=False)["patches"]
    assert (foreign.values == expected.values).all()
    assert foreign.dims == expected.dims


def test_a_grid_takes_every_position_once_in_random_order():
    patches = extract_patches(DIFFERENT, (4, 5), stride=(3, 2), rng=0)
    found = list(zip(*(patches[c].values.tolist() for c in ("image", "y0", "x0")), strict=True))
    expected = [
        (i, y, x)
        for i, image in enumerate(DIFFERENT)
        for y in range(0, image.shape[0] - 3, 3)
        for x in range(0, image.shape[1] - 4, 2)
    ]
    assert sorted(found) == expected
    assert found != expected
    assert_cut_from(patches, DIFFERENT)
    some = extract_patches(DIFFERENT, (4, 5), 10, stride=(3, 2), rng=0)
    picked = list(zip(*(some[c].values.tolist() for c in ("image", "y0", "x0")), strict=True))
    assert len(set(picked)) == 10
    assert set(picked) <= set(expected)


def test_every_position_without_number_and_stride():
    assert len(extract_patches(GREY, (5, 7))) == 16 * 24


def test_any_prefix_is_a_sample():
    images = [np.full((40, 40), value) for value in range(10)]
    patches = extract_patches(images, (8, 8), 5000, rng=0)
    for prefix in (patches[:500], patches[-500:]):
        counts = np.bincount(prefix.image.values, minlength=10)
        assert counts.min() > 20
        assert counts.max() < 90


def test_same_seed_same_patches():
    first, again = (extract_patches(GREY, (4, 4), 20, rng=7) for _ in range(2))
    xr.testing.assert_identical(first, again)
    other = extract_patches(GREY, (4, 4), 20, rng=8)
    assert not np.array_equal(first, other)
    generator = extract_patches(GREY, (4, 4), 20, rng=np.random.default_rng(7))
    assert np.array_equal(first, generator)


def test_dataarrays_of_any_order():
    image = xr.DataArray(COLOUR.transpose(2, 1, 0), dims=("channel", "x", "y"))
    assert_cut_from(extract_patches(image, (4, 4), 20, rng=0), [COLOUR])
    series = xr.DataArray(np.stack([GREY, GREY + 1], axis=-1), dims=("y", "x", "time"))
    assert_cut_from(extract_patches(series, (4, 4), 20, rng=0), [GREY, GREY + 1])
    many_bands = xr.DataArray(RNG.random((7, 20, 30)), dims=("band", "y", "x"))
    assert extract_patches(many_bands, (4, 4), 5).shape == (5, 4, 4, 7)


def test_channels_can_be_said_with_the_patch_shape():
    image = RNG.random((20, 30, 7))
    assert extract_patches(image, (4, 4, 7), 5).shape == (5, 4, 4, 7)
    assert extract_patches(GREY, (4, 4, 1), 5).shape == (5, 4, 4)
    with pytest.raises(ArgumentError, match=r"patch_shape=\(4, 4, 2\) asks for 2 channels"):
        extract_patches(COLOUR, (4, 4, 2), 5)


def test_dtype_none_keeps_that_of_the_images():
    image = RNG.integers(0, 255, (20, 20), dtype=np.uint8)
    assert extract_patches(image, (4, 4), 5, dtype=None).dtype == np.uint8
    assert extract_patches(image, (4, 4), 5).dtype == np.float32


def test_files_and_globs():
    images = [RNG.integers(0, 255, (20, 20 + i), dtype=np.uint8) for i in range(3)]
    for i, image in enumerate(images):
        imsave(f"photo{i}.png", image, check_contrast=False)
    for source in ("*.png", ["photo0.png", "photo[12].png"]):
        assert_cut_from(extract_patches(source, (4, 4), 30, rng=0), images)
    assert_cut_from(extract_patches("photo1.png", (4, 4), 30, rng=0), images[1:2])


def test_files_are_decoded_again_when_they_are_too_many_to_keep(monkeypatch):
    images = [RNG.integers(0, 255, (20, 20), dtype=np.uint8) for _ in range(3)]
    for i, image in enumerate(images):
        imsave(f"photo{i}.png", image, check_contrast=False)
    monkeypatch.setattr("stackedae.sources._KEEP_DECODED_BYTES", 500)
    assert_cut_from(extract_patches("*.png", (4, 4), 30, rng=0), images)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: extract_patches(GREY, (21, 5), 3),
            ArgumentError,
            r"patch_shape=\(21, 5\) is la",
        ),
        (lambda: extract_patches(GREY, (8,), 3), ArgumentError, r"patch_shape=\(8,\) is not two"),
        (
            lambda: extract_patches(GREY, 8, 3),
            ArgumentError,
            "patch_shape=8 is not two or three sizes",
        ),
        (lambda: extract_patches(GREY, (8, 0), 3), ArgumentError, r"patch_shape=\(8, 0\)"),
        (lambda: extract_patches(GREY, (8, 8), 0), ArgumentError, "n_patches=0 asks for no patch"),
        (
            lambda: extract_patches(GREY, (8, 8), 999, stride=8),
            ArgumentError,
            "n_patches=999 is",
        ),
        (lambda: extract_patches(GREY, (8, 8), stride=0), ArgumentError, "stride=0 is not"),
        (
            lambda: extract_patches(GREY, (8, 8), 3, chunks=0),
            ArgumentError,
            "chunks=0 is no",
        ),
        (lambda: extract_patches([], (8, 8), 3), ArgumentError, r"images=\[\] holds no image"),
        (lambda: extract_patches(GREY[0], (8, 8), 3), ArgumentError, r"images.shape=\(30,\)"),
        (lambda: extract_patches(np.array(5.0), (8, 8), 3), ArgumentError, r"images.shape=\(\)"),
        (lambda: extract_patches(5, (8, 8), 3), ArgumentError, "images=5 is no image"),
        (
            lambda: extract_patches([GREY, 1j * GREY], (8, 8), 3),
            ArgumentError,
            r"images\[1\].d",
        ),
        (lambda: extract_patches([GREY, COLOUR], (8, 8), 3), ArgumentError, r"images\[1\].shape"),
        (lambda: extract_patches([GREY[0]], (8, 8), 3), ArgumentError, r"images\[0\].shape"),
        (lambda: extract_patches("no/*.png", (8, 8), 3), ImageError, "matches no file"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# imageio 2.37 leaves the files open that it cannot read (2026-11).
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_unreadable_file_is_named():
    imsave("good.png", np.zeros((20, 20), np.uint8), check_contrast=False)
    with open("bad.png", "wb") as file:
        file.write(b"not a picture")
    with pytest.raises(ImageError, match=r"bad\.png cannot be read as an image"):
        extract_patches("*.png", (4, 4), 3)
    gc.collect()


def test_an_existing_store_is_not_overwritten_unless_asked_to():
    first = extract_patches(GREY, (4, 4), 20, store="a.zarr", rng=0)
    with pytest.raises(StoreExistsError, match=r"a\.zarr exists already; pass overwrite=True"):
        extract_patches(GREY, (4, 4), 30, store="a.zarr", rng=0)
    assert len(first.compute()) == 20
    again = extract_patches(GREY, (4, 4), 30, store="a.zarr", rng=0, overwrite=True)
    assert len(again.compute()) == 30
    assert os.listdir() == ["a.zarr"]


def test_a_store_in_the_way_is_refused_before_any_image_is_read():
    extract_patches(GREY, (4, 4), 20, store="a.zarr")
    with pytest.raises(StoreExistsError):
        extract_patches("there/are/none.png", (4, 4), 20, store="a.zarr")


def test_a_folder_that_is_no_store_is_never_overwritten():
    os.mkdir("thesis")
    with pytest.raises(StoreExistsError, match="is no Zarr store, so it is not overwritten"):
        extract_patches(GREY, (4, 4), 20, store="thesis", overwrite=True)
    assert os.listdir() == ["thesis"]


def test_a_failed_write_leaves_the_old_store_and_nothing_else():
    old = extract_patches(GREY, (4, 4), 20, store="a.zarr", rng=0).compute()

    def fail(block):
        raise RuntimeError("the disk is on fire")

    broken = da.from_array(GREY, chunks=10).map_blocks(fail, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="on fire"):
        extract_patches(broken, (4, 4), 20, store="a.zarr", overwrite=True)
    assert os.listdir() == ["a.zarr"]
    xr.testing.assert_identical(open_patches("a.zarr").compute(), old)


def test_a_killed_write_leaves_no_store_that_looks_complete():
    script = (
        "import numpy as np; from stackedae import extract_patches;"
        "extract_patches(np.random.default_rng(0).random((500, 500)), (16, 16), 3_000_000,"
        "                store='a.zarr', chunks=4096)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not any("patches" in folder for folder, *_ in os.walk(".")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not os.path.exists("a.zarr")
    with pytest.raises(StoreError, match="there is no patches store"):
        open_patches("a.zarr")
    assert len(extract_patches(GREY, (4, 4), 5, store="a.zarr")) == 5


def test_an_interrupted_write_to_a_store_without_rename_is_incomplete():
    store = zarr.storage.MemoryStore()

    def fail(block):
        raise RuntimeError("the network is down")

    broken = da.from_array(GREY, chunks=10).map_blocks(fail, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="network"):
        extract_patches(broken, (4, 4), 20, store=store)
    with pytest.raises(StoreError):
        open_patches(store)
    patches = extract_patches(GREY, (4, 4), 20, store=store, overwrite=True, rng=0)
    assert_cut_from(patches, [GREY])


def test_the_store_says_where_it_comes_from():
    attrs = extract_patches(DIFFERENT, (4, 4), 9, store="a.zarr", rng=5).attrs
    assert attrs["n_images"] == 3
    assert attrs["patch_shape"] == [4, 4]
    assert attrs["seed"] == 5
    assert attrs["created_by"].startswith("stackedae ")
    array = zarr.open_group("a.zarr", mode="r")["patches"]
    assert [codec["name"] for codec in array.metadata.to_dict()["codecs"]][-1] == "crc32c"
    assert array.metadata.dimension_names == ("patch", "y", "x")


def test_zero_patches_are_stored_as_chunks_too():
    extract_patches(np.zeros((20, 20)), (4, 4), 50, store="a.zarr", chunks=10)
    assert (open_patches("a.zarr") == 0).all()


def test_dask_images_are_read_on_the_active_scheduler(cluster):
    expected = extract_patches(GREY, (4, 4), 50, rng=0)
    with cluster.as_current():
        patches = extract_patches(
            da.from_array(GREY, chunks=10), (4, 4), 50, rng=0, store=os.path.abspath("a.zarr")
        )
        assert (patches.values == expected.values).all()
    with dask.config.set(scheduler="synchronous"):
        lazy = extract_patches(da.from_array(GREY, chunks=10), (4, 4), 50, rng=0)
        assert (lazy.values == expected.values).all()
