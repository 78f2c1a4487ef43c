import numpy as np
import pytest

from stackedae.contrast import normalise_contrast, whiten_image
from stackedae.datasets import natural_images


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_range_is_kept(dtype):
    X = np.random.default_rng(0).integers(0, 256, (100, 16)).astype(dtype)
    out = normalise_contrast(X, bound=50.0, low=0.1, high=0.9)
    assert out.dtype == (np.float64 if dtype == np.float64 else np.float32)
    low, high = out.dtype.type(0.1), out.dtype.type(0.9)
    assert (out.min(), out.max()) == (low, high)


def radial_slope(image):
    """Slope of log amplitude over log frequency."""
    f = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    inside = (f > 0.02) & (f < 0.2)
    amplitude = np.abs(np.fft.fft2(image))[inside]
    return np.polyfit(np.log(f[inside]), np.log(amplitude + 1e-12), 1)[0]


def test_whitening_flattens_the_spectrum():
    for image in natural_images(whiten=False)[:4]:
        whitened = whiten_image(image)
        assert whitened.shape == image.shape
        assert whitened.mean() == pytest.approx(0, abs=1e-12)
        assert whitened.std() == pytest.approx(1)
        assert radial_slope(image) < -0.5
        assert radial_slope(whitened) == pytest.approx(radial_slope(image) + 1, abs=0.15)


def test_a_flat_image_whitens_to_zero():
    assert (whiten_image(np.full((9, 7), 3.0)) == 0).all()
