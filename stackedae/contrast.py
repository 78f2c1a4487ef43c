"""Contrast of patches and images: per-patch normalisation, 1/f whitening."""

from __future__ import annotations

import numpy as np

from stackedae.layout import Array
from stackedae.memory import row_blocks


def centred_squares(X: Array) -> float:
    """Return Σ (x − mean of its row)² over all entries of X; additive over rows."""
    total = 0.0
    for rows in row_blocks(len(X), X.shape[1]):
        centred = X[rows] - X[rows].mean(axis=1, keepdims=True, dtype=np.float64)
        total += float(np.vdot(centred, centred))
    return total


def normalise_contrast(X: Array, bound: float, low: float, high: float) -> Array:
    r"""Remove the mean of every row, clip at ±bound, and map ±bound to [low, high].

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
    out -= out.mean(axis=1, keepdims=True)
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
