import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from stackedae.windows import PatchGrid, cut_windows

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(
    st.lists(sizes, min_size=1, max_size=4), sizes, st.tuples(st.integers(1, 5), st.integers(1, 5))
)
def test_grid_numbers_every_position_once(shapes, patch_shape, stride):
    grid = PatchGrid(tuple(shapes), patch_shape, stride)
    expected = [
        (image, y, x)
        for image, (height, width) in enumerate(shapes)
        for y in range(0, height - patch_shape[0] + 1, stride[0])
        for x in range(0, width - patch_shape[1] + 1, stride[1])
    ]
    assert grid.n_positions == len(expected)
    located = grid.locate(np.arange(grid.n_positions))
    assert list(zip(*(part.tolist() for part in located), strict=True)) == expected


@given(sizes, st.sampled_from([(), (1,), (3,)]), st.randoms(use_true_random=False))
def test_windows_are_slices(size, channels, random):
    image = np.random.default_rng(0).random((*size, *channels))
    h, w = random.randint(1, size[0]), random.randint(1, size[1])
    y0 = np.array([random.randint(0, size[0] - h) for _ in range(5)])
    x0 = np.array([random.randint(0, size[1] - w) for _ in range(5)])
    windows = cut_windows(image, y0, x0, (h, w))
    assert windows.shape == (5, h, w, *channels)
    for window, y, x in zip(windows, y0, x0, strict=True):
        assert (window == image[y : y + h, x : x + w]).all()
