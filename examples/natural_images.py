"""
Edges from photographs
======================

Patches of natural images, a few hidden units, and a wish that each be active rarely: what comes
out are edge detectors, much like those of the visual cortex.
"""

# %%
# Ten photographs in grey. Their spectra fall as 1/f; flattened, neighbouring pixels hardly say
# anything about each other, and the auto-encoder has to find more interesting structure.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from stackedae import (
    ContrastNormalizer,
    FilterDisplay,
    HistoryDisplay,
    StackedAutoEncoder,
    datasets,
    extract_patches,
)

images = datasets.natural_images()
_, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, picture in zip(axes, (datasets.natural_images(whiten=False)[2], images[2]), strict=True):
    ax.imshow(picture, cmap="gray")
    ax.set_axis_off()

# %%
# Fifty thousand patches at random places go into a chunked Zarr store. What comes back is lazy.

folder = Path(tempfile.mkdtemp())
patches = extract_patches(
    images, patch_shape=(8, 8), n_patches=50_000, store=folder / "patches.zarr", rng=0
)
patches

# %%
# Contrast is normalised (lazily, too), and 25 hidden units are learned: L-BFGS on the client, cost
# and gradient where the chunks are.

patches = ContrastNormalizer().fit_transform(patches)
sae = StackedAutoEncoder((25,), sparsity_target=0.01, max_iter=150, tol=0, random_state=0)
sae.fit(patches)

display = FilterDisplay.from_estimator(sae)

# %%
# The cost falls fast at first; what it is made of stands in ``history_``.

display = HistoryDisplay.from_estimator(sae)

# %%
# Features keep the coordinates of their patches.

features = sae.transform(patches)
features
