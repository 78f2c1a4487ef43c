import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stackedae.errors import ArgumentError
from stackedae.layout import Layout

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@given(shapes)
def test_pack_undoes_unpack(shapes):
    layout = Layout(tuple((f"s{i}", shape) for i, shape in enumerate(shapes)))
    vector = np.arange(layout.size, dtype=float)
    segments = layout.unpack(vector)
    assert [part.shape for part in segments.values()] == shapes
    assert (layout.pack(segments) == vector).all()


def test_segments_are_views():
    layout = Layout.of(W=(2, 3), b=(2,))
    vector = layout.zeros()
    layout.unpack(vector)["b"][:] = 1
    assert vector.tolist() == [0] * 6 + [1] * 2


@pytest.mark.parametrize(
    "segments",
    [{"W": np.zeros((2, 3))}, {"W": np.zeros(6), "b": np.zeros(2)}],
    ids=["missing", "of another shape"],
)
def test_pack_refuses_what_does_not_fit(segments):
    with pytest.raises(ArgumentError, match="does not match the layout"):
        Layout.of(W=(2, 3), b=(2,)).pack(segments)


def test_unpack_refuses_another_size():
    with pytest.raises(ArgumentError, match=r"vector.shape=\(7,\).*pass a vector of shape \(8,\)"):
        Layout.of(W=(2, 3), b=(2,)).unpack(np.zeros(7))
