"""Whitening of whole images, by the spectrum that natural ones have."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from stackedae.contrast import whiten_image as whiten_plane
from stackedae.errors import ArgumentError, DataError
from stackedae.images import images_in
from stackedae.layout import Array
from stackedae.sources import open_image


def whiten_image(image: Any, *, cutoff: float = 0.4) -> Any:
    r"""Flatten the spectrum of natural images, which falls with frequency f as about 1/f.

    Each Fourier amplitude is multiplied by :math:`f \exp(-(f / f_0)^4)`: the ramp flattens, the
    exponential leaves out the corners of the spectrum, where noise is all there is.

    Parameters
    ----------
    image : array-like, Dask array, DataArray, or what `open_image` opens
        One image (height, width) or (height, width, channels), or a stack (image, height, width[,
        channels]), as for `extract_patches`: the last of three axes holds channels if it is no
        longer than 4. Of a DataArray, dimensions besides "y" and "x" count planes.
    cutoff : float
        The frequency :math:`f_0`, in cycles per pixel.

    Returns
    -------
    container of the shape of `image`, float64
        Every plane, that is every channel of every image, is whitened on its own: it has mean 0 and
        variance 1 (zero everywhere if it is constant). A DataArray keeps dimensions, coordinates,
        attributes and name. What is lazy stays lazy, with planes in one chunk each (a zarr.Array
        gives a Dask array).

    Raises
    ------
    ArgumentError
        If `image` is no image or stack of real numbers, or `cutoff` is not positive.
    DataError
        If a pixel is NaN or infinite (for lazy images, when they are computed): each pixel has a
        part in every frequency, so that none can be left out.

    See Also
    --------
    ZCAWhitener : Whitens patches by their own covariance.

    References
    ----------
    Olshausen, B., Field, D., "Sparse coding with an overcomplete basis set: a strategy employed by
    V1?", Vision Research 37, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import whiten_image
    >>> image = np.random.default_rng(0).random((32, 32)).cumsum(axis=0).cumsum(axis=1)
    >>> whitened = whiten_image(image)
    >>> whitened.shape, abs(round(float(whitened.mean()), 6)), round(float(whitened.std()), 6)
    ((32, 32), 0.0, 1.0)
    """
    if not cutoff > 0:
        raise ArgumentError("cutoff", cutoff, "lets no frequency pass", "pass 0.4, say")
    planes = images_in(open_image(image), (1, 1), name="image")
    pixels, axes = planes.array.data, planes.space
    whiten = partial(_whiten_planes, axes=axes, cutoff=cutoff)
    if isinstance(pixels, da.Array):
        whole = pixels.rechunk(dict.fromkeys(axes, -1))
        whitened = da.map_blocks(whiten, whole, dtype=np.float64, meta=np.empty((0,) * pixels.ndim))
    else:
        whitened = whiten(pixels)
    return image.copy(data=whitened) if isinstance(image, xr.DataArray) else whitened


def _whiten_planes(pixels: Array, *, axes: tuple[int, ...], cutoff: float) -> Array:
    out = np.empty(pixels.shape)
    planes, whitened = (np.moveaxis(array, axes, (-2, -1)) for array in (pixels, out))
    for index in np.ndindex(planes.shape[:-2]):
        _refuse_bad_pixels(planes[index])
        whitened[index] = whiten_plane(planes[index], cutoff=cutoff)
    return out


def _refuse_bad_pixels(plane: Array) -> None:
    good = np.isfinite(plane)
    if not good.all():
        y, x = np.unravel_index(np.argmin(good), plane.shape)
        raise DataError(
            f"image contains NaN or infinity, first at y={y}, x={x}; fill such pixels, which have "
            "a part in every frequency."
        )
