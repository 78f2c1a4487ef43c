import json
import pickle
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from skimage.io import imsave

from stackedae import StackedAutoEncoder, extract_patches, feature_map, open_image
from stackedae.errors import ArgumentError, ImageError

RNG = np.random.default_rng(0)
CELLS = RNG.integers(0, 4000, (2, 3, 40, 50), dtype=np.uint16)  # c, z, y, x


def write_ome(path, version):
    """Write an image of two channels and three planes, with a pyramid of two levels."""
    with warnings.catch_warnings():
        # ome-zarr 0.18 calls what it deprecated itself (2026-11).
        warnings.simplefilter("ignore", DeprecationWarning)
        import ome_zarr.writer
        from ome_zarr.format import FormatV04, FormatV05

    formats = {"0.4": FormatV04(), "0.5": FormatV05()}
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    scale = {"c": 1.0, "z": 2.0, "y": 0.5, "x": 0.5}
    half = [{"type": "scale", "scale": [1, 2.0, 1.0, 1.0]}]
    half.append({"type": "translation", "translation": [0, 0, 0.25, 0.25]})
    ome_zarr.writer.write_multiscale(
        [CELLS, CELLS[..., ::2, ::2]],
        group,
        fmt=formats[version],
        axes=[
            {"name": "c", "type": "channel"},
            *({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"),
        ],
        coordinate_transformations=[[{"type": "scale", "scale": list(scale.values())}], half],
        storage_options={"chunks": (1, 1, 16, 16)},
        name="cells",
        omero={"channels": [{"label": label, "color": "FF0000"} for label in ("DAPI", "GFP")]}
        if version == "0.5"
        else None,
    )
    return group


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_with_its_scale(version):
    write_ome(Path("cells.zarr"), version)
    image = open_image("cells.zarr")
    assert isinstance(image.data, da.Array)
    assert image.dims == ("c", "z", "y", "x")
    assert image.name == "cells"
    assert (image.values == CELLS).all()
    assert image.y.values.tolist() == (0.5 * np.arange(40)).tolist()
    assert image.z.values.tolist() == [0, 2, 4]
    assert image.x.attrs == {"units": "micrometer"}
    half = open_image("cells.zarr", level=1)
    assert (half.values == CELLS[..., ::2, ::2]).all()
    assert half.x.values[:3].tolist() == [0.25, 1.25, 2.25]
    with pytest.raises(ArgumentError, match="level=2 is not among the 2 of this image"):
        open_image("cells.zarr", level=2)

    patches = extract_patches("cells.zarr", (8, 8), 200, rng=0)
    assert patches.dims == ("patch", "y", "x", "channel")
    assert patches.image.values.max() == 2  # planes follow each other
    first = patches[0]
    y0, x0 = int(first.y0), int(first.x0)
    expected = CELLS[:, int(first.image), y0 : y0 + 8, x0 : x0 + 8]
    assert (first.values == np.moveaxis(expected, 0, -1)).all()

    sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(patches / 4000)
    features = feature_map(sae, open_image("cells.zarr") / 4000)
    assert features.dims == ("z", "y", "x", "feature")
    assert features.x.values.tolist() == image.x.values.tolist()
    assert features.x.attrs == {"units": "micrometer"}
    assert features.z.values.tolist() == [0, 2, 4]
    corner = sae.transform(np.moveaxis(CELLS[:, 1, 10:18, 20:28], 0, -1)[None] / np.float32(4000))
    np.testing.assert_allclose(features[1, 14, 24], corner[0], atol=1e-6)

    volumes = extract_patches("cells.zarr", (2, 4, 4), 50, rng=0)
    assert volumes.dims == ("patch", "z", "y", "x", "channel")
    z0, y0, x0 = (int(volumes[name][7]) for name in ("z0", "y0", "x0"))
    expected = CELLS[:, z0 : z0 + 2, y0 : y0 + 4, x0 : x0 + 4]
    assert (volumes[7].values == np.moveaxis(expected, 0, -1)).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_names_of_channels_come_along():
    write_ome(Path("cells.zarr"), "0.5")
    described = json.loads(Path("cells.zarr/zarr.json").read_text())
    described["attributes"]["ome"]["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    Path("cells.zarr/zarr.json").write_text(json.dumps(described))
    assert open_image("cells.zarr").c.values.tolist() == ["DAPI", "GFP"]
    patches = extract_patches("cells.zarr", (4, 4), 5, rng=0)
    assert patches.attrs["channels"] == ["DAPI", "GFP"]


def test_zarr_arrays_groups_and_objects():
    names = ("lat", "lon")
    array = zarr.create_array(
        "a.zarr", shape=(20, 30), chunks=(8, 8), dtype="f4", dimension_names=names
    )
    array[:] = pixels = RNG.random((20, 30), dtype=np.float32)
    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("image", data=pixels, chunks=(8, 8))
    for source in ("a.zarr", array, array.store_path, "g.zarr", group, group.store):
        image = open_image(source)
        assert (image.values == pixels).all()
        assert image.chunks == ((8, 8, 4), (8, 8, 8, 6))
    assert open_image("a.zarr").dims == names
    zarr.open_group("empty.zarr", mode="w").create_group("inner")
    with pytest.raises(ImageError, match=r"this Zarr group holds no image itself, but inner"):
        open_image("empty.zarr")
    Path("nothing.zarr").mkdir()
    with pytest.raises(ImageError, match=r"nothing\.zarr cannot be read as a Zarr store"):
        open_image("nothing.zarr")
    with pytest.raises(ImageError, match=r"absent\.zarr' matches no file"):
        open_image("absent.zarr")


def test_shards_are_read_by_the_chunks_in_them():
    array = zarr.create_array("a.zarr", shape=(32, 32), chunks=(4, 4), shards=(16, 16), dtype="f4")
    array[:] = pixels = RNG.random((32, 32), dtype=np.float32)
    image = open_image("a.zarr")
    assert image.chunks[0][0] == 4
    assert (image.values == pixels).all()


def test_what_xarray_wrote():
    bands = {name: (("y", "x"), RNG.random((20, 30))) for name in ("red", "nir")}
    dataset = xr.Dataset({**bands, "crs": 0}, coords={"x": 10.0 * np.arange(30)})
    dataset.to_zarr("bands.zarr", consolidated=False)
    for source in ("bands.zarr", dataset):
        image = open_image(source)
        assert image.dims == ("channel", "y", "x")
        assert image.channel.values.tolist() == ["nir", "red"]
        assert image.x.values.tolist() == dataset.x.values.tolist()
        patches = extract_patches(source, (4, 4), 20, rng=0)
        assert patches.attrs["channels"] == ["nir", "red"]
        y0, x0 = int(patches.y0[3]), int(patches.x0[3])
        expected = dataset.nir.values[y0 : y0 + 4, x0 : x0 + 4].astype(np.float32)
        assert (patches[3, ..., 0].values == expected).all()
    dataset[["nir"]].to_zarr("nir.zarr", consolidated=False)
    assert open_image("nir.zarr").dims == ("y", "x")
    with pytest.raises(ArgumentError, match=r"source=\['crs'\] are variables of no image"):
        open_image(dataset[["crs"]])


def test_tiff_files_are_read_by_tile(monkeypatch):
    monkeypatch.setattr("stackedae.sources._SMALL_TIFF_BYTES", 0)
    pixels = RNG.integers(0, 60_000, (3, 64, 80), dtype=np.uint16)
    tifffile.imwrite("stack.tif", pixels, tile=(16, 16), photometric="minisblack")
    image = open_image("stack.tif")
    assert image.dims == ("image", "y", "x")
    assert image.chunks == ((1, 1, 1), (16,) * 4, (16,) * 5)
    assert (image.values == pixels).all()
    patches = extract_patches("stack.tif", (8, 8), 100, rng=0)
    expected = extract_patches(pixels, (8, 8), 100, rng=0)
    assert (patches.values == expected.values).all()
    assert isinstance(patches.data, np.ndarray)
    again = pickle.loads(pickle.dumps(image))  # as it goes to workers
    assert (again.values == pixels).all()
    colours = RNG.integers(0, 255, (32, 48, 3), dtype=np.uint8)
    tifffile.imwrite("colour.tif", colours, tile=(16, 16), photometric="rgb")
    assert open_image("colour.tif").dims == ("y", "x", "channel")
    with pytest.raises(ArgumentError, match=r"level=1 is not among the 1 of stack\.tif"):
        open_image("stack.tif", level=1)
    Path("bad.tif").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.tif cannot be read as an image"):
        open_image("bad.tif")


def test_a_pyramid_in_a_tiff_file(monkeypatch):
    pixels = RNG.integers(0, 255, (64, 64), dtype=np.uint8)
    with tifffile.TiffWriter("pyramid.tif") as file:
        file.write(pixels, tile=(16, 16), subifds=1)
        file.write(pixels[::2, ::2], tile=(16, 16), subfiletype=1)
    for small in (0, 2**20):
        monkeypatch.setattr("stackedae.sources._SMALL_TIFF_BYTES", small)
        for level in (0, 1):
            found = open_image("pyramid.tif", level=level)
            assert (found.values == pixels[:: 1 + level, :: 1 + level]).all()
        for keep in (2**28, 0):
            monkeypatch.setattr("stackedae.sources._KEEP_DECODED_BYTES", keep)
            assert open_image("pyramid.tif", level=1).values.shape == (32, 32)


def test_files_that_are_too_many_to_keep_are_decoded_when_needed(monkeypatch):
    images = [RNG.integers(0, 255, (20, 20), dtype=np.uint8) for _ in range(3)]
    for number, image in enumerate(images):
        imsave(f"photo{number}.png", image, check_contrast=False)
    monkeypatch.setattr("stackedae.sources._KEEP_DECODED_BYTES", 500)
    patches = extract_patches("*.png", (4, 4), 30, rng=0)
    assert (patches.values == extract_patches(images, (4, 4), 30, rng=0).values).all()


def test_levels_are_numbers():
    for bad in (-1, 1.5, True, "0"):
        with pytest.raises(ArgumentError, match="is no level of a pyramid"):
            open_image(np.zeros((3, 3)), level=bad)


def test_urls(monkeypatch):
    """A store behind a web server is read by chunk, and one in the memory of this process too."""
    pixels = RNG.random((20, 30), dtype=np.float32)
    zarr.create_array("web/image.zarr", data=pixels, chunks=(8, 8))
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory="web")

        def log_request(self, code="-", size="-"):
            asked.append(self.path)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        image = open_image(f"http://127.0.0.1:{server.server_port}/image.zarr")
        assert (image.values == pixels).all()
        asked.clear()
        sae = StackedAutoEncoder(3, max_iter=2, tol=0).fit(RNG.random((9, 4, 4)))
        feature_map(sae, image, chunks=8)[:4, :4].compute()
        chunks = sorted(path for path in asked if "/c/" in path)
        assert chunks == [f"/image.zarr/c/{y}/{x}" for y in (0, 1) for x in (0, 1)]
        server.shutdown()
    zarr.create_array("memory://somewhere/image.zarr", data=pixels, chunks=(8, 8))
    patches = extract_patches("memory://somewhere/image.zarr", (4, 4), 9, rng=0)
    assert (patches.values == extract_patches(pixels, (4, 4), 9, rng=0).values).all()
