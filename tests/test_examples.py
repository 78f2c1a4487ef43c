"""The example that the documentation does not run."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--wide"]])
def test_handwritten_digits(options, monkeypatch, capsys):
    X, y = load_digits().images * (255 / 16), load_digits().target
    parts = {"x_train": X[:1500], "y_train": y[:1500], "x_test": X[1500:], "y_test": y[1500:]}
    np.savez("digits.npz", **parts)
    words = [str(EXAMPLES / "mnist.py"), "digits.npz", "--epochs", "15", *options]
    monkeypatch.setattr(sys, "argv", words)
    told = runpy.run_path(words[0], run_name="__main__")
    assert "softmax alone" in capsys.readouterr().out
    assert np.mean(told["said"] == y[1500:]) > 0.85
    for picture in ("filters-before", "filters-after", "mistakes"):
        assert Path(f"mnist-{picture}.png").stat().st_size > 5_000
