"""Contrast of patches and images: per-patch normalisation, 1/f whitening."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from stackedae.layout import Array
from stackedae.memory import row_blocks


def centred_squares(X: Array) -> tuple[float, int]:
    """Return Σ (x − mean of its row)² over all entries of X, and how many these are.

    Entries that are NaN are left out. Both numbers are additive over rows.
    """
    total, n_present = 0.0, X.size
    for rows in row_blocks(len(X), X.shape[1]):
        centred = X[rows] - _means(X[rows], np.float64)
        squares = float(np.vdot(centred, centred))
        if np.isnan(squares):
            missing = np.isnan(centred)
            centred[missing] = 0
            n_present -= int(np.count_nonzero(missing))
            squares = float(np.vdot(centred, centred))
        total += squares
    return total, n_present


def _means(X: Array, dtype: DTypeLike) -> Array:
    """Return the mean of every row, over the entries that are not NaN, (n_rows, 1)."""
    means: Array = X.mean(axis=1, keepdims=True, dtype=dtype)
    gaps = np.isnan(means[:, 0])
    if gaps.any():
        missing = np.isnan(X[gaps])
        n_present = np.maximum(1, np.count_nonzero(~missing, axis=1, keepdims=True))
        sums = np.where(missing, 0, X[gaps]).sum(axis=1, keepdims=True, dtype=dtype)
        means[gaps] = sums / n_present
    return means


def normalise_contrast(X: Array, bound: float, low: float, high: float) -> Array:
    r"""Remove the mean of every row, clip at ±bound, and map ±bound to [low, high].

    Entries that are NaN remain so, and have no part in the mean.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Patches as rows.
    bound : float
        Where deviations from the mean of a row are clipped; positive.
    low, high : float
        What −bound and +bound become.

    Returns
    -------
    ndarray of shape (n_rows, n_features)
        In the dtype of X if that is floating, else float32.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.contrast import normalise_contrast
    >>> normalise_contrast(np.array([[0.0, 2.0], [5.0, 5.0]]), bound=2.0, low=0.0, high=1.0)
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """
    out = X.astype(np.result_type(X.dtype, np.float32))
    out -= _means(out, out.dtype)
    np.clip(out, -bound, bound, out=out)
    out *= (high - low) / (2 * bound)
    out += (low + high) / 2
    # Rounding must not push the ends out of the range that was promised.
    return np.clip(out, low, high, out=out)


def whiten_image(image: Array, *, cutoff: float = 0.4) -> Array:
    r"""Flatten the spectrum of a natural image, which falls with frequency f as about 1/f.

    Each Fourier amplitude is multiplied by :math:`f \exp(-(f / f_0)^4)`: the ramp flattens, the
    exponential leaves out the corners of the spectrum, where noise is all there is.

    Parameters
    ----------
    image : ndarray of shape (height, width)
        Grey image.
    cutoff : float
        The frequency :math:`f_0`, in cycles per pixel.

    Returns
    -------
    ndarray of shape (height, width), float64
        Mean 0 and variance 1 (zero everywhere if the image is constant).

    References
    ----------
    Olshausen, B., Field, D., "Sparse coding with an overcomplete basis set: a strategy employed by
    V1?", Vision Research 37, 1997.
    """
    fy = np.fft.fftfreq(image.shape[0])[:, None]
    fx = np.fft.rfftfreq(image.shape[1])[None, :]
    f = np.hypot(fy, fx)
    spectrum = np.fft.rfft2(image.astype(np.float64)) * f * np.exp(-((f / cutoff) ** 4))
    whitened = np.fft.irfft2(spectrum, s=image.shape)
    whitened -= whitened.mean()
    scale = whitened.std()
    return (
        whitened / scale if scale > 1e-12 * max(1.0, float(np.abs(image).max())) else 0 * whitened
    )
