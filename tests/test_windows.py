import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stackedae.windows import (
    PatchGrid,
    add_windows,
    cut_windows,
    window_means,
    window_variances,
    windows_as_rows,
    windows_per_pixel,
)

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
    image, corners = grid.locate(np.arange(grid.n_positions))
    assert [(i, *corner) for i, corner in zip(image, corners.tolist(), strict=True)] == expected


@given(sizes, st.sampled_from([(), (1,), (3,)]), st.randoms(use_true_random=False))
def test_windows_are_slices(size, channels, random):
    image = np.random.default_rng(0).random((*size, *channels))
    h, w = random.randint(1, size[0]), random.randint(1, size[1])
    y0 = np.array([random.randint(0, size[0] - h) for _ in range(5)])
    x0 = np.array([random.randint(0, size[1] - w) for _ in range(5)])
    windows = cut_windows(image, np.column_stack((y0, x0)), (h, w))
    assert windows.shape == (5, h, w, *channels)
    for window, y, x in zip(windows, y0, x0, strict=True):
        assert (window == image[y : y + h, x : x + w]).all()


@st.composite
def regions(draw):
    n_axes = draw(st.integers(1, 3))
    window, stride, positions = (
        tuple(draw(st.integers(1, most)) for _ in range(n_axes)) for most in (3, 3, 4)
    )
    sizes = [(n - 1) * s + k for n, s, k in zip(positions, stride, window, strict=True)]
    channels = draw(st.sampled_from([(), (2,)]))
    return np.random.default_rng(0).random((*sizes, *channels)), window, stride, positions


@given(regions(), st.integers(1, 20))
def test_windows_as_rows_and_back(case, most):
    region, window, stride, positions = case
    corners = np.array(list(np.ndindex(*positions))) * stride
    expected = cut_windows(region, corners, window)
    found, total = np.empty((*positions, expected[0].size)), np.zeros(region.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackedae.windows.MAX_BLOCK_ROWS", most)
        for box, rows in windows_as_rows(region, window, stride, positions):
            assert len(rows) <= most
            found[box] = rows.reshape(found[box].shape)
            add_windows(total, rows, window, stride, box)
    assert (found.reshape(expected.shape) == expected).all()
    counts = np.ones(())
    for along in zip(window, stride, positions, strict=True):
        counts = counts[..., None] * windows_per_pixel(*along)
    counts = counts.reshape(*counts.shape, *(1,) * (region.ndim - counts.ndim))
    np.testing.assert_allclose(total, region * counts)


@given(regions())
def test_means_and_variances_of_windows(case):
    region, window, stride, positions = case
    region = region[..., 0] if region.ndim > len(window) else region
    corners = np.array(list(np.ndindex(*positions))) * stride
    cut = cut_windows(region, corners, window).reshape(*positions, -1)
    np.testing.assert_allclose(window_means(region, window, stride), cut.mean(axis=-1))
    present = region > 0.3
    there = cut_windows(present, corners, window).reshape(*positions, -1)
    expected = np.ma.array(cut, mask=~there).var(axis=-1).filled(0)
    found = window_variances(1e3 + region, present, window, stride)
    np.testing.assert_allclose(found, expected, atol=1e-9)
