"""
In a scikit-learn pipeline
==========================

Features are learned without labels, a linear classifier is put on top, and cross-validation
chooses how many features there should be.
"""

# %%

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from stackedae import StackedAutoEncoder

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

pipeline = make_pipeline(
    MinMaxScaler(clip=True),
    StackedAutoEncoder(sparsity_target=0.1, alpha=1e-3, max_iter=100, tol=0, random_state=0),
    LogisticRegression(C=10, max_iter=2000),
)
search = GridSearchCV(
    pipeline, {"stackedautoencoder__hidden_layer_sizes": [(16,), (64,), (144,)]}, cv=3
)
search.fit(X_train, y_train)

# %%
# More features let the classes come apart better, up to a point:

for settings, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(settings["stackedautoencoder__hidden_layer_sizes"], f"{score:.3f}")

# %%
# On digits that neither of them has seen, beside the same classifier on the pixels:

plain = make_pipeline(MinMaxScaler(), LogisticRegression(C=10, max_iter=2000))
print(f"features {search.score(X_test, y_test):.3f}")
print(f"pixels   {plain.fit(X_train, y_train).score(X_test, y_test):.3f}")

# %%
# What a digit looks like after it has been through the features and back:

import matplotlib.pyplot as plt

scaler, sae, _ = search.best_estimator_
digits = scaler.transform(X_test[:8])
_, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
for column, pair in zip(axes.T, zip(digits, sae.reconstruct(digits), strict=True), strict=True):
    for ax, picture in zip(column, pair, strict=True):
        ax.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_axis_off()
