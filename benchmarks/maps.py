"""Features of an image that is larger than memory should be, and a million patches of it.

    python benchmarks/maps.py [--side 30000] [--folder DIR] [--workers 0 1 2] [--only map,sample,…]
                              [--markdown docs/maps-figures.md]

map      A generated float32 image in Zarr, chunks of 1,000²; 8×8 patches, 25 features, stride 2,
         written to Zarr. Peak memory of all processes together, pixels a second.
speed    A part of it that fits: the map against im2col and transform, in memory, alternated.
memory   512×512 pixels: what the map, im2col, and scikit-learn's PatchExtractor allocate at most.
sample   A million patches: bytes read against those of the chunks touched; the same patches for
         another chunking and other numbers of workers.

DIR keeps the image, and is where the features go (30,000²: 4 and 25 GB).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import zarr
from contests.measure import alternate, median_and_range, number, surroundings, table
from scipy.ndimage import gaussian_filter

from stackedae import StackedAutoEncoder, extract_patches, feature_map, open_image
from stackedae.deployment import local_workers

PATCH, HIDDEN, STRIDE, CHUNK = (8, 8), 25, 2, 1000


class Peak:
    """Watches the memory of this process and all it starts, twenty times a second.

    Pages that processes share are shared out among them (proportional set size).
    """

    def __enter__(self) -> Peak:
        self.most, self.stop = 0, threading.Event()
        self.watching = threading.Thread(target=self._watch)
        self.watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.watching.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.05):
            self.most = max(self.most, sum(map(memory_of, family())))


def family() -> list[psutil.Process]:
    """Return this process and all it started."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process; 0 if it is gone."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0


def bytes_read() -> int:
    """Return what all processes have read from files so far."""
    total = 0
    for process in family():
        try:
            total += process.io_counters().read_chars
        except psutil.Error:
            continue
    return total


def generate(path: Path, side: int, chunk: int) -> None:
    """Write the image: clouds of several sizes, of values from about 0.1 to 0.9."""
    if (path / "zarr.json").exists():
        return
    array = zarr.create_array(path, shape=(side, side), chunks=(chunk, chunk), dtype="float32")

    def fill(y: int, x: int) -> None:
        rng = np.random.default_rng((y, x))
        noise = rng.normal(size=(chunk, chunk)).astype(np.float32)
        clouds = sum(sigma * gaussian_filter(noise, sigma, mode="wrap") for sigma in (1, 4))
        array[y : y + chunk, x : x + chunk] = np.clip(0.5 + 0.1 * clouds, 0.1, 0.9)

    starts = range(0, side, chunk)
    dask.compute(*(dask.delayed(fill)(y, x) for y in starts for x in starts))


def on(workers: int) -> object:
    """Compute in so many processes; in threads if there are none."""
    return local_workers(workers) if workers else nullcontext()


def fitted(image: Path) -> StackedAutoEncoder:
    """Return a model of patches of the image."""
    patches = extract_patches(open_image(image)[:2000, :2000], PATCH, 20_000, rng=0)
    return StackedAutoEncoder(HIDDEN, max_iter=20, tol=0, random_state=0).fit(patches)


def map_all(folder: Path, image: Path, workers: int, results: Any = None) -> list[str]:
    """Write the features of the whole image; return a row of the table."""
    out = folder / "features.zarr"
    with on(workers), Peak() as peak:
        sae, before, started = fitted(image), bytes_read(), time.perf_counter()
        features = feature_map(sae, image, stride=STRIDE)
        features.to_zarr(out, mode="w", consolidated=False)
        seconds, read = time.perf_counter() - started, bytes_read() - before
    stored = size_of(out)
    check(features, out)
    shutil.rmtree(out)
    n_pixels = np.prod(open_image(image).shape)
    row = [
        name_of(workers),
        number(seconds),
        number(n_pixels / seconds / 1e6),
        f"{peak.most / 2**20:,.0f}",
        number(read / size_of(image)),
        f"{stored / 2**30:.1f}",
    ]
    if results is not None:
        results.put(row)
    return row


def in_a_process_of_its_own(*arguments: Any) -> list[str]:
    """Call `map_all` where nothing has used memory yet."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=map_all, args=(*arguments, results))
    process.start()
    row: list[str] = results.get()
    process.join()
    return row


def size_of(store: Path) -> int:
    """Return the bytes of all files of a store."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def name_of(workers: int) -> str:
    """Say where tasks run."""
    return f"{workers} worker{'s' if workers > 1 else ''}" if workers else "threads"


def check(features: object, out: Path) -> None:
    """See that some of what was written is what would be computed."""
    written = zarr.open_array(out / "features", mode="r")
    side = written.shape[0]
    for start in (0, side // 2, side - 50):
        part = (slice(start, start + 50), slice(side - start - 50, side - start))
        assert np.allclose(written[part], features[part].values, atol=1e-6)


def speed(image: Path, repeats: int) -> None:
    """Compare with im2col and transform, on a part that fits into memory either way."""
    sae, pixels = fitted(image), open_image(image)[:2000, :2000].values

    def im2col() -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(pixels, PATCH)[::STRIDE, ::STRIDE]
        return sae.transform(windows.reshape(-1, *PATCH))

    def blocks() -> np.ndarray:
        return feature_map(sae, pixels, mode="valid", stride=STRIDE).values

    assert np.allclose(im2col(), blocks().reshape(-1, HIDDEN), atol=1e-6)
    seconds = alternate({"im2col and `transform`": im2col, "`feature_map`": blocks}, repeats)
    print(
        table(
            (f"{len(pixels)}², stride {STRIDE}", "ms", "million pixels/s"),
            [
                (
                    name,
                    median_and_range([1e3 * each for each in times]),
                    number(pixels.size / statistics.median(times) / 1e6),
                )
                for name, times in seconds.items()
            ],
        )
    )
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"\nim2col takes {median_and_range(ratios)} times as long.\n", flush=True)


def memory(image: Path) -> None:
    """Compare what 512×512 pixels take, each in a fresh process."""
    rows = []
    for name in ("`feature_map`", "im2col", "PatchExtractor"):
        words = [sys.executable, __file__, "--folder", str(image.parent), "--taking", name]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        rows.append((name, done.stdout.strip()))
    print(table((f"512², stride 1, {HIDDEN} MiB of features", "MiB"), rows), end="\n\n", flush=True)


def taking(image: Path, name: str) -> None:
    """Print what one way takes at most."""
    from sklearn.feature_extraction.image import PatchExtractor

    sae = fitted(image)
    pixels = open_image(image)[:512, :512].values
    sae.transform(np.zeros((8, *PATCH)))

    def im2col() -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(pixels, PATCH)
        return sae.transform(windows.reshape(-1, *PATCH))

    def extractor() -> np.ndarray:
        return sae.transform(PatchExtractor(patch_size=PATCH).transform(pixels[None]))

    def blocks() -> np.ndarray:
        return feature_map(sae, pixels, mode="valid").values

    tracemalloc.start()
    result = {"`feature_map`": blocks, "im2col": im2col, "PatchExtractor": extractor}[name]()
    assert result.size == 505 * 505 * HIDDEN
    print(f"{tracemalloc.get_traced_memory()[1] / 2**20:.0f}")


def sample(folder: Path, image: Path, workers: list[int]) -> None:
    """Draw a million patches by several chunkings and schedulers."""
    other = folder / "other.zarr"
    if not other.exists():
        pixels = da.from_zarr(str(image)).rechunk((1500, 700))
        pixels.to_zarr(str(other))
    rows = []
    for source in (image, other):
        chunks = " × ".join(map(str, zarr.open_array(source, mode="r").chunks))
        for n in workers:
            patches = folder / "patches.zarr"
            with on(n), Peak() as peak:
                before, started = bytes_read(), time.perf_counter()
                extract_patches(source, PATCH, 1_000_000, store=patches, rng=0, overwrite=True)
                seconds, read = time.perf_counter() - started, bytes_read() - before
            values = np.ascontiguousarray(zarr.open_array(patches / "patches", mode="r")[:])
            rows.append(
                (
                    f"chunks of {chunks}, {name_of(n)}",
                    number(seconds),
                    f"{read / size_of(source):.3f}",
                    f"{peak.most / 2**20:,.0f}",
                    hashlib.sha256(values.data).hexdigest()[:12],
                )
            )
            del values
    shutil.rmtree(folder / "patches.zarr")
    header = ("1,000,000 patches", "s", "bytes read / stored", "peak MiB", "SHA-256 of all patches")
    print(table(header, rows), end="\n\n", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="map,speed,memory,sample")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--taking", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.markdown:
        sys.stdout = options.markdown.open("w")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        image = folder / "image.zarr"
        if options.taking:
            taking(image, options.taking)
            return
        generate(image, options.side, min(CHUNK, options.side))
        wanted = options.only.split(",")
        if "speed" in wanted:
            speed(image, options.repeats)
        if "memory" in wanted:
            memory(image)
        if "sample" in wanted:
            sample(folder, image, options.workers)
        if "map" in wanted:
            rows = [in_a_process_of_its_own(folder, image, n) for n in options.workers]
            side = f"{options.side:,}², stride {STRIDE}"
            header = (
                side,
                "s",
                "million pixels/s",
                "peak MiB",
                "bytes read / stored",
                "GiB written",
            )
            print(table(header, rows), end="\n\n", flush=True)
        print(surroundings())


if __name__ == "__main__":
    main()
