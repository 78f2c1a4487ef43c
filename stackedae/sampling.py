"""Which positions of patches to take: at random, weighted, or all of a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.cluster import OnCluster, run_here, task
from stackedae.errors import ArgumentError
from stackedae.images import Images
from stackedae.pixels import Box, pixels_of
from stackedae.windows import Integers, PatchGrid, window_means, window_variances

VARIANCE = "variance"

_TILE_POSITIONS = 2**20
"""Of a tile that is weighed at a time: fixed, for each has random numbers of its own."""

_TILES_AT_A_TIME = 16


@dataclass(frozen=True)
class Sampling:
    """What is asked of positions.

    Parameters
    ----------
    n_patches : int or None
        How many; all there are if None.
    regular : bool
        Whether a position is taken once at most.
    min_valid : float or None
        Share of the pixels of a patch that must not be NaN; None if it does not matter.
    weights : "variance", sequence of Images, or None
        Patches are taken in proportion to the variance of their pixels, or to the mean weight of
        these.
    max_per_image : int or None
        Patches of an image, at most.
    """

    n_patches: int | None
    regular: bool = False
    min_valid: float | None = None
    weights: Any = None
    max_per_image: int | None = None

    @property
    def looks(self) -> bool:
        """Whether pixels or weights decide."""
        return self.min_valid is not None or self.weights is not None


def choose_positions(
    sampling: Sampling, sources: Sequence[Images], grid: PatchGrid, rng: np.random.Generator
) -> Integers:
    """Return the numbers of positions, in the random order in which patches come.

    Equal pixels give equal positions, whatever chunks they are in and whoever reads them.

    Raises
    ------
    ArgumentError
        If there are not so many.
    """
    n, k = sampling.n_patches, sampling.max_per_image
    if sampling.looks:
        return _weighted(sampling, sources, grid, rng)
    if n is not None and not sampling.regular:
        return _independent(n, k, grid, rng)
    if k is None and n is not None and n <= grid.n_positions:
        return rng.choice(grid.n_positions, n, replace=False)
    return _first(_capped(rng.permutation(grid.n_positions), k, grid), n)


def _independent(n: int, k: int | None, grid: PatchGrid, rng: np.random.Generator) -> Integers:
    """Draw positions, some perhaps twice, until there are n, or images have k each."""
    numbers = rng.integers(grid.n_positions, size=n)
    if k is None:
        return numbers
    room = k * int(np.count_nonzero(grid.per_axis.prod(axis=1)))
    if n > room:
        raise _too_many(n, room)
    numbers = _capped(numbers, k, grid)
    while len(numbers) < n:
        counts = np.bincount(grid.image_of(numbers), minlength=len(grid.image_shapes))
        free = np.flatnonzero((counts < k) & (grid.per_axis.prod(axis=1) > 0))
        sizes = np.diff(grid.first)[free]
        drawn = rng.integers(sizes.sum(), size=n)
        which = np.searchsorted(np.cumsum(sizes), drawn, side="right")
        more = drawn - (np.cumsum(sizes) - sizes)[which] + grid.first[free][which]
        numbers = _capped(np.concatenate((numbers, more)), k, grid)[:n]
    return numbers


def _capped(numbers: Integers, k: int | None, grid: PatchGrid) -> Integers:
    """Return the first k of each image."""
    if k is None:
        return numbers
    image = grid.image_of(numbers)
    order = np.argsort(image, kind="stable")
    sizes = np.bincount(image, minlength=len(grid.image_shapes))
    rank = np.empty(len(numbers), int)
    rank[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return numbers[rank < k]


def _first(numbers: Integers, n: int | None) -> Integers:
    if n is not None and n > len(numbers):
        raise _too_many(n, len(numbers))
    return numbers[:n]


def _too_many(n: int, there: int) -> ArgumentError:
    return ArgumentError(
        "n_patches",
        n,
        f"is more than the {there} positions that the images have for it",
        "pass a smaller number or stride, or fewer conditions (stride=None draws positions that "
        "may come twice, unless mask, nodata, min_valid or weights decide)",
    )


def _weighted(
    sampling: Sampling, sources: Sequence[Images], grid: PatchGrid, rng: np.random.Generator
) -> Integers:
    """Draw positions without replacement, in proportion to their weights.

    Every position gets a number from an exponential distribution with its weight as rate; those
    with the smallest numbers are taken (Efraimidis and Spirakis 2006). So it does not matter in
    which order positions are looked at.
    """
    seed = int(rng.integers(2**63))
    keys, numbers, below = np.empty(0), np.empty(0, int), np.inf
    tiles = _tiles_of(sources, grid, sampling.weights, seed)
    limit = grid.n_positions if sampling.n_patches is None else sampling.n_patches
    while batch := list(islice(tiles, _TILES_AT_A_TIME)):
        raced = _race(batch, sampling, grid, below)
        found = [
            tile.numbers_of(places, grid) for tile, (_, places) in zip(batch, raced, strict=True)
        ]
        keys = np.concatenate((keys, *(of_tile for of_tile, _ in raced)))
        numbers = np.concatenate((numbers, *found))
        if sampling.max_per_image is None and len(keys) > limit:
            best = np.argpartition(keys, limit - 1)[:limit]
            keys, numbers = keys[best], numbers[best]
            below = float(keys.max())
    order = np.lexsort((numbers, keys))
    chosen = _first(_capped(numbers[order], sampling.max_per_image, grid), sampling.n_patches)
    if not len(chosen):
        raise ArgumentError(
            "min_valid" if sampling.weights is None else "weights",
            sampling.min_valid if sampling.weights is None else sampling.weights,
            "leaves no position for a patch",
            "look at the mask, the missing pixels, or the weights",
        )
    return rng.permutation(chosen)  # those with large weights would come first


@dataclass(frozen=True)
class _Tile:
    """Positions that are weighed together."""

    images: Images
    weights: Images | None
    first_image: int
    positions: tuple[slice, ...]  # along leading axes, and those of space
    seed: tuple[int, ...]

    def box(self, grid: PatchGrid) -> Box:
        """Return the pixels that they cover."""
        n = self.images.n_leading
        space = zip(self.positions[n:], grid.patch_shape, grid.stride, strict=True)
        covered = [
            slice(each.start * step, (each.stop - 1) * step + size) for each, size, step in space
        ]
        return (*self.positions[:n], *covered)

    def numbers_of(self, places: Integers, grid: PatchGrid) -> Integers:
        """Return the numbers of positions of the tile, which are counted from 0."""
        sizes = tuple(each.stop - each.start for each in self.positions)
        indices = np.unravel_index(places, sizes)
        n = self.images.n_leading
        image = np.full(len(places), self.first_image)
        if n:
            leading = [i + each.start for i, each in zip(indices, self.positions[:n], strict=False)]
            image += np.ravel_multi_index(leading, self.images.shape[:n])
        along = zip(indices[n:], self.positions[n:], strict=True)
        of_space = [index + each.start for index, each in along]
        room = tuple(grid.per_axis[self.first_image])
        numbers: Integers = grid.first[image] + np.ravel_multi_index(of_space, room)
        return numbers


def _tiles_of(
    sources: Sequence[Images], grid: PatchGrid, weights: Any, seed: int
) -> Iterator[_Tile]:
    first_image = 0
    for number, images in enumerate(sources):
        of_these = None if weights is None or isinstance(weights, str) else weights[number]
        sizes = (*images.shape[: images.n_leading], *map(int, grid.per_axis[first_image]))
        if all(sizes):
            for index, positions in enumerate(_cut_evenly(sizes, len(grid.stride))):
                yield _Tile(images, of_these, first_image, positions, (seed, number, index))
        first_image += images.n_images


def _cut_evenly(sizes: tuple[int, ...], n_space: int) -> Iterator[tuple[slice, ...]]:
    """Cut a box into boxes of limited size: cubes in space, of many images if these are small.

    Examples
    --------
    >>> from stackedae.sampling import _cut_evenly
    >>> [len(list(_cut_evenly(sizes, 2))) for sizes in ((2048, 2048), (60_000, 21, 21))]
    [4, 26]
    """
    room, steps = _TILE_POSITIONS, list[int]()
    for axis, size in enumerate(reversed(sizes)):
        share = room ** (1 / max(1, n_space - axis))
        steps.append(max(1, min(size, round(share))))
        room //= steps[-1]
    steps.reverse()
    for corner in product(*(range(0, n, step) for n, step in zip(sizes, steps, strict=True))):
        at = zip(corner, steps, sizes, strict=True)
        yield tuple(slice(start, min(start + step, n)) for start, step, n in at)


def _race(
    tiles: Sequence[_Tile], sampling: Sampling, grid: PatchGrid, below: float
) -> Sequence[tuple[NDArray[np.float64], Integers]]:
    """Return the keys, as far as they are below a bound, of the positions of every tile."""
    by_variance = isinstance(sampling.weights, str)
    looks = sampling.min_valid is not None or by_variance
    rule = _Rule(grid.patch_shape, grid.stride, sampling.min_valid, by_variance)
    keep = None if sampling.max_per_image is not None else sampling.n_patches
    calls, here = [], True
    for tile in tiles:
        needed = tile.images if looks else None, tile.weights
        parts = [images and images.part(_fitted(tile.box(grid), images)) for images in needed]
        here = here and all(images is None or images.here for images in needed)
        shape = tuple(each.stop - each.start for each in tile.positions)
        calls.append((rule, *parts, shape, tile.seed, keep, below))
    if here:
        return run_here(_keys_of, calls)
    return OnCluster().compute(*(task("stackedae-weigh", _keys_of, *call) for call in calls))


def _fitted(box: Box, images: Images) -> Box:
    """Return a box without the leading axes that images do not have."""
    return box[len(box) - images.n_leading - len(images.space) :]


@dataclass(frozen=True)
class _Rule:
    """What the weight of a position is."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    min_valid: float | None
    by_variance: bool

    def of_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Return weights that come from pixels, the last axis of which is of channels."""
        present = np.isfinite(pixels)
        weight: NDArray[np.float64] = np.ones(())
        if self.by_variance:
            weight = np.zeros(())
            for c in range(pixels.shape[-1]):
                of_channel = pixels[..., c], present[..., c]
                weight = weight + window_variances(*of_channel, self.window, self.stride)
        if self.min_valid is not None:
            valid = window_means(present.all(axis=-1), self.window, self.stride)
            weight = np.where(valid >= self.min_valid - _ROUNDING, weight, 0.0)
        return weight


_ROUNDING = 1e-9


def _keys_of(
    rule: _Rule,
    pixels: Any,
    weights: Any,
    shape: tuple[int, ...],
    seed: tuple[int, ...],
    keep: int | None,
    below: float,
) -> tuple[NDArray[np.float64], Integers]:
    """Return the keys of positions that may be taken, and which they are."""
    weight = np.ones(shape)
    if pixels is not None:
        pixels = pixels_of(pixels)
        weight *= rule.of_pixels(pixels.reshape(*pixels.shape[: len(shape)], -1))
    if weights is not None:
        given = np.nan_to_num(pixels_of(weights).astype(np.float64, copy=False))
        weight *= np.maximum(window_means(given, rule.window, rule.stride), 0.0)
    keys = np.random.default_rng(seed).standard_exponential(weight.size)
    places = np.flatnonzero(weight > 0)
    keys = keys[places] / weight.ravel()[places]
    promising = keys <= below
    keys, places = keys[promising], places[promising]
    if keep is not None and keep < len(keys):
        best = np.argpartition(keys, keep - 1)[:keep]
        keys, places = keys[best], places[best]
    return keys, places
