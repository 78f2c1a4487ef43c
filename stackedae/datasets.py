"""Images to try things on, from files that scikit-image and scikit-learn bring along."""

from __future__ import annotations

from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from skimage.color import rgb2gray
from sklearn.datasets import load_sample_image

from stackedae.contrast import whiten_image

_FROM_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
_FROM_SKLEARN = ("china.jpg", "flower.jpg")


def natural_images(*, whiten: bool = True) -> list[NDArray[np.float64]]:
    """Return ten photographs in grey, without downloading anything.

    Parameters
    ----------
    whiten : bool
        Whether to flatten their spectra (see `stackedae.whiten_image`), after which
        neighbouring pixels are hardly correlated and each image has mean 0 and variance 1.

    Returns
    -------
    list of ndarray of shape (height, width), float64
        Between 300 and 640 pixels a side; in [0, 1] if not whitened.

    Examples
    --------
    >>> from stackedae.datasets import natural_images
    >>> images = natural_images()
    >>> len(images), images[0].shape
    (10, (512, 512))
    """
    photographs = [getattr(skimage.data, name)() for name in _FROM_SKIMAGE]
    photographs += [load_sample_image(name) for name in _FROM_SKLEARN]
    grey = [_grey(pixels) for pixels in photographs]
    return [whiten_image(image).astype(np.float64) for image in grey] if whiten else grey


def _grey(pixels: NDArray[Any]) -> NDArray[np.float64]:
    grey: NDArray[np.float64] = rgb2gray(pixels) if pixels.ndim == 3 else pixels / 255.0
    return grey
