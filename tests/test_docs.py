"""Pages whose examples can be run as they are: what they claim holds."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def run(page):
    """Run all Python of a page, in order, and return what is named then."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.long
def test_few_labels():
    names = run("supervised.md")
    X, y, few = names["X"], names["y"], names["few"]
    unknown = few == -1
    score = names["model"].score(X[unknown], y[unknown])
    names["model"].set_params(fine_tune=False).fit(X, few)
    assert names["model"].score(X[unknown], y[unknown]) > score > 0.9
    assert names["proba"].chunks[0] == (500, 500, 500, 297)
    assert (names["classes"] == names["cells"]).mean() > 0.95
    assert names["is_even"].score(X, y % 2) > 0.9
    np.testing.assert_array_equal(names["is_even"].transform(X), names["layers"].transform(X))


@pytest.mark.long
def test_anomalies():
    names = run("outliers.md")
    unusual, distance = names["unusual"].values, names["y"] - 20 - 0.45 * names["x"]
    assert unusual[abs(distance) < 1.2].mean() > 0.95
    assert unusual[abs(distance) > 8].mean() < 0.001
    assert (names["detector"].predict(names["patches"]) == -1).mean() == pytest.approx(0.001)
