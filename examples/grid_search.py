"""
Tuned as a pipeline, used on images
===================================

Preparation, features and classifier are one pipeline, so that `GridSearchCV` tries their settings
together, and nothing of the samples it validates with reaches any step. All but the last of the
steps it finds then map whole images.
"""

# %%
# Digits are left as images of 8 × 8 pixels: the steps keep in mind what a patch looks like.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from stackedae import (
    ContrastNormalizer,
    FeatureMapDisplay,
    PCAWhitener,
    StackedAutoEncoder,
    feature_map,
)

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images / 16, digits.target, test_size=400, random_state=0, stratify=digits.target
)

# %%
# A step may itself be a choice: here, digits are whitened, or only their contrast is normalised.
# With `memory`, features are learned once for all classifiers that are tried on them.

pipeline = Pipeline(
    [
        ("prepare", PCAWhitener(0.95)),
        ("features", StackedAutoEncoder(sparsity_target=0.1, max_iter=80, tol=0, random_state=0)),
        ("classify", LogisticRegression(max_iter=3000)),
    ],
    memory=tempfile.mkdtemp(),
)
search = GridSearchCV(
    pipeline,
    {
        "prepare": [PCAWhitener(0.95), ContrastNormalizer(n_std=2)],
        "features__hidden_layer_sizes": [(25,), (64,), (100,)],
        "classify__C": [10, 100, 1000],
    },
    cv=3,
)
search.fit(X_train, y_train)

# %%
# The accuracy of every combination, as a mean over three folds:

_, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
results = search.cv_results_
for ax, prepare in zip(axes, search.param_grid["prepare"], strict=True):
    for C, marker in zip(search.param_grid["classify__C"], "os^", strict=True):
        found = [
            (params["features__hidden_layer_sizes"][0], score)
            for params, score in zip(results["params"], results["mean_test_score"], strict=True)
            if params["classify__C"] == C and type(params["prepare"]) is type(prepare)
        ]
        ax.plot(*zip(*found, strict=True), marker=marker, label=f"C = {C}")
    ax.set(title=type(prepare).__name__, xlabel="features", xticks=[25, 64, 100])
axes[0].set_ylabel("accuracy")
axes[1].legend()

# %%
# The best of them on digits that played no part in this, and the same classifier on pixels:

flat_train, flat_test = (X.reshape(len(X), -1) for X in (X_train, X_test))
pixels = GridSearchCV(LogisticRegression(max_iter=3000), {"C": [0.1, 1, 10, 100]}, cv=3)
pixels.fit(flat_train, y_train)
print("best:", {name: str(value) for name, value in search.best_params_.items()})
for name, tuned, X in (("features", search, X_test), ("pixels", pixels, flat_test)):
    print(f"{name:8} {tuned.best_score_:.3f} in validation, {tuned.score(X, y_test):.3f} in test")

# %%
# A page of 150 digits, with a margin of 2 pixels around each, is an image. All steps but the
# classifier map it, each patch being prepared as in training. Here is the upper left corner:

n_rows, n_columns, side = 10, 15, 12
framed = np.pad(X_test[: n_rows * n_columns], ((0, 0), (2, 2), (2, 2)))
rows = framed.reshape(n_rows, n_columns, side, side).swapaxes(1, 2)
page = xr.DataArray(rows.reshape(n_rows * side, n_columns * side), dims=("y", "x"))

best = search.best_estimator_
features = feature_map(best[:-1], page, mode="valid")
display = FeatureMapDisplay(features[:44, :68], features=(0, 1, 2, 3)).plot()

# %%
# Every twelfth position along each axis is that of a digit, and what the classifier says of the
# features there is what the whole pipeline says of the digit. Those it takes for others are marked.

at_digits = features[2::side, 2::side].stack(digit=("y", "x")).transpose("digit", "feature")
said = best[-1].predict(at_digits.values)
print("as of digits one by one:", bool((said == best.predict(X_test[: len(said)])).all()))

_, ax = plt.subplots(figsize=(9, 6.2), layout="constrained")
ax.imshow(page, cmap="gray_r")
for number in np.flatnonzero(said != y_test[: len(said)]):
    row, column = divmod(number, n_columns)
    corner = side * column - 0.5, side * row - 0.5
    ax.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor="#D55E00", linewidth=2))
    ax.text(*corner, f" {said[number]}", color="#D55E00", va="top", weight="bold")
ax.set_title("digits that were taken for another, and for which")
ax.set_axis_off()
