import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import ReconstructionDisplay
from stackedae.errors import ArgumentError


def test_samples_reconstructions_and_errors(sae, X):
    unread = da.from_array(X, chunks=(50, 4, 6)).map_blocks(read_first, dtype=X.dtype)
    display = ReconstructionDisplay.from_estimator(sae, unread, n_samples=6)
    assert (display.samples == X[:6]).all()
    assert (display.reconstructions == sae.reconstruct(X[:6])).all()
    errors = 0.5 * ((display.reconstructions - X[:6]) ** 2).sum(axis=(1, 2))
    assert display.errors == pytest.approx(errors, rel=1e-5)
    labels = [text.get_text() for text in display.ax_.get_xticklabels()]
    assert labels == [f"{error:.2g}" for error in errors]
    assert display.description.startswith(
        "6 samples above their reconstructions, 4 × 6 pixels in grey; their errors lie between "
    )


def read_first(block, block_info=None):
    if block_info:
        assert block_info[0]["chunk-location"][0] == 0, "only what is shown is read"
    return block


def test_pairs_have_a_scale_of_their_own_and_labels_their_place():
    samples = np.array([[[0.0, 1.0], [2.0, 4.0]], [[7.0, 8.0], [9.0, 7.0]]])
    display = ReconstructionDisplay(samples, samples / 2, np.ones(2)).plot()
    picture = display.im_.get_array()
    assert picture[2:4, 2:4].tolist() == [[0, 64], [128, 255]]
    assert picture[6:8, 2:4].tolist() == [[0, 32], [64, 128]]
    assert list(display.ax_.get_xticks()) == [2.5, 6.5]
    assert list(display.ax_.get_yticks()) == [2.5, 6.5]


@pytest.mark.parametrize("shape", [(5, 4, 6), (4, 6, 3), (3, 4, 6, 2)])
def test_volumes_colours_and_missing_values(shape):
    samples = np.random.default_rng(0).random((3, *shape))
    samples[0, 0] = np.nan
    display = ReconstructionDisplay(samples, samples, np.array([1, 2, np.nan])).plot()
    assert display.im_.get_array().shape[2] == 3
    assert "between 1 and 2" in display.description


def test_nothing_to_draw_is_refused(sae, X):
    with pytest.raises(ArgumentError, match="n_samples=0 leaves nothing to draw"):
        ReconstructionDisplay.from_estimator(sae, X, n_samples=0)
    assert not plt.get_fignums()
