"""Maps over whole images: features, errors and reconstructions of the patch at every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from stackedae.containers import RowFunction
from stackedae.errors import ArgumentError
from stackedae.images import CHANNEL, Images, as_sizes, images_in
from stackedae.layers import Stack
from stackedae.layout import Array
from stackedae.mapping import MODES, MapPlan, Rows, default_blocks
from stackedae.samples import FittedStack, Reconstructing, row_function
from stackedae.sources import open_image
from stackedae.stores import StoreLike, new_store

MAP = "map"
"""What a store that holds one is."""


def feature_map(
    sae: FittedStack | Pipeline,
    image: Any,
    *,
    mode: str = "same",
    preprocess: Any = None,
    stride: int | tuple[int, ...] = 1,
    layers: int | Sequence[int] | None = None,
    chunks: int | tuple[int, ...] | None = None,
    patch_shape: tuple[int, ...] | None = None,
    dims: Sequence[Hashable] | None = None,
    channel_dim: Hashable | None = None,
    level: int = 0,
) -> xr.DataArray:
    """Return the features of the patch around every pixel, in the coordinates of the image.

    Nothing is computed yet. Blocks are computed one by one, each from its own part of the image.

    Parameters
    ----------
    sae : StackedAutoEncoder, another estimator of this library, or Pipeline
        Fitted on patches; a pipeline that ends with one says what comes before as well.
    image : array-like, path, URL, or Zarr object
        Whatever `open_image` opens: one image, or a stack of images of one size (a time series,
        say), with the channels of the patches.
    mode : {"same", "valid"}
        "same": as many positions as pixels, with the image mirrored at its borders (the pixel at
        the border comes twice). "valid": only positions whose patch lies inside the image.
    preprocess : fitted transformer, or None
        What was done to patches before `sae` was fitted to them, such as a `ContrastNormalizer`.
    stride : int or tuple of int
        Pixels between neighbouring positions.
    layers : int, sequence of int, or None
        Whose features: numbers of layers, counted from 0 at the bottom (−1 is the last). Those of
        several lie next to each other. None is the last.
    chunks : int, tuple of int, or None
        Positions along each dimension in a block; if None, blocks of about 32 MiB which agree with
        the chunks of the image where they can.
    patch_shape : tuple of int or None
        Shape of a patch, if `sae` was fitted to flat samples that are not squares.
    dims : sequence of str or int, or None
        The dimensions in space, as for `extract_patches`; if None, those of the patches, if the
        image has them.
    channel_dim : str, int or None
        The dimension of channels.
    level : int
        Of a pyramid.

    Returns
    -------
    xarray.DataArray of shape (…, height, width, n_features)
        Lazy, with the names and coordinates of the image and the last dimension "feature" (and its
        coordinate `layer`, if several are asked for). A patch is labelled by the pixel in its
        middle: for an even size, the one after it. So the map lies on the image, in either mode.

    Raises
    ------
    ArgumentError
        If an argument cannot be worked with, or the image does not have the channels of the
        patches.
    DataError
        When computed: if the image has NaN (unless ``missing="mask"``) or infinity.

    Notes
    -----
    Of an image in Zarr, tasks read what they need themselves; chunks that neighbours need too are
    kept for them for a while. ``to_zarr`` writes the map block by block.

    See Also
    --------
    error_map, reconstruct_image : Other maps.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder, extract_patches, feature_map
    >>> image = np.random.default_rng(0).random((30, 40))
    >>> patches = extract_patches(image, (8, 8), 500, rng=0)
    >>> sae = StackedAutoEncoder(3, max_iter=3, tol=0, random_state=0).fit(patches)
    >>> features = feature_map(sae, image)
    >>> dict(features.sizes)
    {'y': 30, 'x': 40, 'feature': 3}
    >>> patch = image[10 - 4 : 10 + 4, 20 - 4 : 20 + 4]
    >>> bool(np.allclose(features[10, 20], sae.transform(patch[None])[0]))
    True
    """
    model = _Model.of(sae, preprocess)
    chosen, of_layer = _chosen_layers(model.sae, layers)
    images, window = _images(model, image, patch_shape, dims, channel_dim, level)
    plan = _plan(images, window, mode, stride, chunks, model.dtype, n_out=len(of_layer))
    rows = model.rows(partial(_codes, model.sae.layers_, chosen))
    features = plan.map(rows, "stackedae-map", feature=len(of_layer))
    if not isinstance(layers, (int, np.integer)) and layers is not None:
        features = features.assign_coords(layer=("feature", of_layer))
    return features.rename("features")


def error_map(
    sae: Reconstructing | Pipeline,
    image: Any,
    *,
    mode: str = "same",
    preprocess: Any = None,
    stride: int | tuple[int, ...] = 1,
    chunks: int | tuple[int, ...] | None = None,
    patch_shape: tuple[int, ...] | None = None,
    dims: Sequence[Hashable] | None = None,
    channel_dim: Hashable | None = None,
    level: int = 0,
) -> xr.DataArray:
    r"""Return the reconstruction error of the patch around every pixel: high where it is unusual.

    Parameters
    ----------
    sae, image, mode, preprocess, stride, chunks, patch_shape, dims, channel_dim, level
        As for `feature_map`; `sae` must reconstruct samples, which what predicts does not.

    Returns
    -------
    xarray.DataArray of shape (…, height, width)
        Lazy: :math:`\tfrac12 \lVert r - x \rVert^2` of the patch x (after `preprocess`) and its
        reconstruction r, as `StackedAutoEncoder.reconstruction_error` has it.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder, error_map, extract_patches
    >>> y, x = np.mgrid[:40, :40]
    >>> image = 0.5 + 0.4 * np.sin(x)
    >>> patches = extract_patches(image, (4, 4), 2000, rng=0)
    >>> sae = StackedAutoEncoder(6, sparsity_weight=0.0, max_iter=50, tol=0).fit(patches)
    >>> image[20, 20] += 0.5
    >>> errors = error_map(sae, image, mode="valid").compute()
    >>> bool(errors.sel(y=20, x=20) > 10 * errors.median())
    True
    """
    model = _Model.of(sae, preprocess, reconstructs=True)
    images, window = _images(model, image, patch_shape, dims, channel_dim, level)
    plan = _plan(images, window, mode, stride, chunks, model.dtype, n_out=1)
    rows = model.rows(partial(_errors, model.sae.layers_))
    return plan.map(rows, "stackedae-errors").rename("errors")


def reconstruct_image(
    sae: Reconstructing | Pipeline,
    image: Any,
    *,
    mode: str = "same",
    preprocess: Any = None,
    stride: int | tuple[int, ...] = 1,
    chunks: int | tuple[int, ...] | None = None,
    patch_shape: tuple[int, ...] | None = None,
    dims: Sequence[Hashable] | None = None,
    channel_dim: Hashable | None = None,
    level: int = 0,
) -> xr.DataArray:
    """Return an image made of the reconstructions of its patches, averaged where they overlap.

    Parameters
    ----------
    sae, image
        As for `error_map`.
    mode : {"same", "valid"}
        Which patches: see `feature_map`.
    preprocess : fitted transformer, or None
        As for `feature_map`. If it has an `inverse_transform`, reconstructions go through it, and
        the result is like the image; else it is like the preprocessed patches.
    stride : int or tuple of int
        Pixels between neighbouring patches; no longer than a patch.
    chunks : int, tuple of int, or None
        Pixels along each dimension in a block.
    patch_shape, dims, channel_dim, level
        As for `feature_map`.

    Returns
    -------
    xarray.DataArray of the shape of the image
        Lazy, with its names and coordinates; NaN for pixels that are in no patch ("valid" with a
        stride that leaves some out). Channels come last.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder, extract_patches, reconstruct_image
    >>> y, x = np.mgrid[:40, :40]
    >>> image = 0.5 + 0.4 * np.sin(x / 3) * np.cos(y / 5)
    >>> patches = extract_patches(image, (4, 4), 2000, rng=0)
    >>> sae = StackedAutoEncoder(8, sparsity_weight=0.0, alpha=0.0, max_iter=200, tol=0)
    >>> sae = sae.fit(patches)
    >>> float(abs(reconstruct_image(sae, image, mode="valid") - image).max()) < 0.05
    True
    """
    model = _Model.of(sae, preprocess, reconstructs=True)
    images, window = _images(model, image, patch_shape, dims, channel_dim, level)
    plan = _plan(images, window, mode, stride, chunks, model.dtype)
    rows = model.rows(partial(_reconstructed, model.sae.layers_), and_back=True)
    return plan.fold(rows, "stackedae-reconstruct").rename("reconstruction")


def _codes(layers: Sequence[Any], chosen: Sequence[int], rows: Array) -> Array:
    codes, below = [], 0
    for number in sorted(set(chosen)):
        rows = Stack(layers[below : number + 1]).encode(rows)
        codes.append(rows)
        below = number + 1
    return codes[0] if len(codes) == 1 else np.concatenate(codes, axis=1)


def _errors(layers: Sequence[Any], rows: Array) -> Array:
    return Stack(layers).errors(rows)


def _reconstructed(layers: Sequence[Any], rows: Array) -> Array:
    return Stack(layers).reconstruct(rows)


def write_map(
    array: xr.DataArray,
    store: StoreLike,
    *,
    attrs: Mapping[str, Any],
    overwrite: bool,
    on_written: Callable[[int], None],
) -> None:
    """Write a map as a Zarr store that xarray opens, which appears when it is complete.

    Parameters
    ----------
    array : DataArray
        A lazy map.
    store : path, URL or Zarr store
        Where to write.
    attrs : mapping
        What else is to be known of it, in words of JSON.
    overwrite : bool
        Whether to replace a store that exists.
    on_written : callable
        Hears of blocks that are written.
    """
    dataset = array.assign_attrs(attrs).to_dataset()
    dim, borders = rows_of_blocks(array)
    with new_store(store, MAP, overwrite=overwrite) as group:
        where: Any = {"store": group.store, "group": group.path or None, "consolidated": False}
        dataset.to_zarr(**where, mode="a", compute=False)
        for start, stop in pairwise(borders):
            rows = {dim: slice(start, stop)}
            dataset.isel(rows).drop_vars(list(dataset.coords)).to_zarr(**where, region=rows)
            on_written(stop - start)


def rows_of_blocks(array: xr.DataArray) -> tuple[str, list[int]]:
    """Return the first dimension along which a map has several blocks, and where these begin."""
    several = (axis for axis, sizes in enumerate(array.data.chunks) if len(sizes) > 1)
    axis = next(several, 0)
    return str(array.dims[axis]), np.cumsum((0, *array.data.chunks[axis])).tolist()


@dataclass(frozen=True)
class _Model:
    """An auto-encoder, and what patches go through before it.

    Parameters
    ----------
    sae : StackedAutoEncoder
        Fitted.
    before : tuple of transformers
        Fitted.
    """

    sae: FittedStack
    before: tuple[Any, ...]

    @classmethod
    def of(cls, sae: Any, preprocess: Any, *, reconstructs: bool = False) -> _Model:
        """Take a pipeline apart, and see that all is fitted."""
        before = [] if preprocess is None else _steps(preprocess)
        if isinstance(sae, Pipeline):
            before += _steps(sae[:-1]) if len(sae.steps) > 1 else []
            sae = sae[-1]
        if not (hasattr(sae, "hidden_layer_sizes") and hasattr(sae, "transform")):
            raise ArgumentError(
                "sae", sae, "is no StackedAutoEncoder, and no pipeline that ends in one", "pass one"
            )
        if reconstructs and not hasattr(sae, "reconstruct"):
            raise ArgumentError(
                "sae", sae, "does not reconstruct samples", "pass a StackedAutoEncoder"
            )
        for step in before:
            if not hasattr(step, "transform"):
                raise ArgumentError(
                    "preprocess", step, "has no method transform", "pass a fitted transformer"
                )
        for step in (*before, sae):
            check_is_fitted(step)
        return cls(sae, tuple(before))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what the auto-encoder returns."""
        return np.dtype(self.sae.layers_[0].params.dtype)

    def rows(self, last: RowFunction, *, and_back: bool = False) -> Rows:
        """Return what is done to patches, with this as the last step.

        If they are to come back, the steps before are undone, as far as all of them can be.
        """
        steps: list[RowFunction] = [*map(row_function, self.before), last]
        if and_back and all(hasattr(step, "inverse_transform") for step in self.before):
            steps += [step.inverse_transform for step in reversed(self.before)]
        elif and_back and self.n_features != self.sae.n_features_in_:
            raise ArgumentError(
                "preprocess",
                self.before,
                "changes the number of features and has no inverse_transform",
                "use one that has, such as PCAWhitener",
            )
        return Rows(tuple(steps), may_miss=bool(self.sae.layers_[0].cost.fill))

    @property
    def n_features(self) -> int:
        """Entries of a patch."""
        first = (*self.before, self.sae)[0]
        return int(getattr(first, "n_features_in_", 0)) or int(self.sae.n_features_in_)

    def patch(self, patch_shape: Any) -> tuple[tuple[int, ...], bool | None]:
        """Return the shape of a patch, and whether its last axis is of channels, if it is known."""
        given = [getattr(step, "sample_shape_", None) for step in (*self.before, self.sae)]
        fitting = (each for each in given if each and math.prod(each) == self.n_features)
        found = next(fitting, (self.n_features,)) if patch_shape is None else patch_shape
        shape = tuple(found) if np.iterable(found) else (found,)
        if patch_shape is None and len(shape) == 1:
            shape = (math.isqrt(shape[0]),) * 2
        if len(shape) not in (2, 3, 4) or math.prod(shape) != self.n_features:
            raise ArgumentError(
                "patch_shape",
                patch_shape,
                f"does not make patches of {self.n_features} features",
                "pass (height, width) or (height, width, channels) with that product",
            )
        names = self.sae.sample_dims_
        if names is not None and len(names) == len(shape):
            return shape, names[-1] == CHANNEL
        return shape, {2: False, 4: True}.get(len(shape))


def _steps(transformer: Any) -> list[Any]:
    """Return the steps of a transformer, which may be a pipeline."""
    if isinstance(transformer, Pipeline):
        return [each for _, step in transformer.steps for each in _steps(step)]
    return [] if transformer is None or transformer == "passthrough" else [transformer]


def _chosen_layers(
    model: FittedStack, layers: int | Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Return the layers asked for, and the layer of every feature."""
    n = len(model.layers_)
    given: Any = -1 if layers is None else layers
    asked = list(given) if np.iterable(given) else [given]
    if not asked or any(
        not isinstance(each, (int, np.integer)) or not -n <= each < n for each in asked
    ):
        raise ArgumentError(
            "layers", layers, f"does not name any of {n} layers", f"pass 0 to {n - 1}, or several"
        )
    chosen = sorted({int(each) % n for each in asked})
    sizes = [model.layers_[number].cost.n_hidden for number in chosen]
    return chosen, np.repeat(chosen, sizes).tolist()


def _images(
    model: _Model, image: Any, patch_shape: Any, dims: Any, channel_dim: Any, level: int
) -> tuple[Images, tuple[int, ...]]:
    """Open what is to be mapped; return the size of a patch in space as well."""
    shape, with_channels = model.patch(patch_shape)
    array = open_image(image, level=level)
    names = [dim for dim in model.sae.sample_dims_ or () if dim != CHANNEL]
    if dims is None and len(names) == len(shape) - bool(with_channels):
        dims = names if set(names) <= set(array.dims) else None
    images = images_in(
        array,
        shape,
        dims=dims,
        channel_dim=channel_dim,
        with_channels=with_channels,
        name="image",
    )
    n_space = len(images.space)
    if (shape[n_space:] or (1,)) != (images.channels or (1,)):
        raise ArgumentError(
            "image.shape",
            images.array.shape,
            f"has {(*images.channels, 1)[0]} channels, and patches have the shape {shape}",
            "pass an image like those that patches were taken from, or say channel_dim=",
        )
    return images.with_channels(model.sae.channel_names_, "image"), shape[:n_space]


def _plan(
    images: Images,
    window: tuple[int, ...],
    mode: str,
    stride: Any,
    chunks: Any,
    dtype: np.dtype[Any],
    n_out: int | None = None,
) -> MapPlan:
    """Check what was asked for, and lay out the blocks: of pixels, or of positions of `n_out`."""
    if mode not in MODES:
        raise ArgumentError("mode", mode, "is unknown", f"choose from {', '.join(MODES)}")
    if mode == "valid" and any(n < k for n, k in zip(images.space_shape, window, strict=True)):
        raise ArgumentError(
            "image.shape", images.array.shape, f"has no room for a patch of {window}", "enlarge it"
        )
    n_space = len(window)
    steps = as_sizes("stride", stride, n_space)
    spacing = (1,) * n_space if n_out is None else steps
    if chunks is None:
        per_position = math.prod(images.channels) if n_out is None else n_out
        blocks = default_blocks(images, spacing, per_position * dtype.itemsize)
    else:
        blocks = as_sizes("chunks", chunks, n_space)
    return MapPlan(images, window, steps, mode, blocks, dtype)
