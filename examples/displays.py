"""
What was learned, in pictures
=============================

Displays work as in scikit-learn: `from_estimator` computes and draws, `plot` draws again, on given
axes if need be, and what was computed stays in attributes.
"""

# %%
# Two layers, learned from patches of photographs in colour:

import skimage.data

from stackedae import (
    ActivationDisplay,
    ContrastNormalizer,
    ErrorDisplay,
    FeatureMapDisplay,
    FilterDisplay,
    HistoryDisplay,
    ReconstructionDisplay,
    StackedAutoEncoder,
    extract_patches,
)

images = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
patches = extract_patches(images, patch_shape=(8, 8), n_patches=20_000, rng=0)
normalizer = ContrastNormalizer()
X = normalizer.fit_transform(patches)
sae = StackedAutoEncoder((36, 16), sparsity_target=0.1, max_iter=80, tol=0, random_state=0).fit(X)

# %%
# Filters
# -------
# Each filter of the first layer is stretched so that zero is mid-grey. Three channels are colours;
# of any other number, each would be shown in grey beside the others, as would the slices of
# volumes.

display = FilterDisplay.from_estimator(sae)

# %%
# Units of a higher layer have no weights on pixels. Their filters are sums of those below, weighted
# by their own, which leaves out what the activation functions do. What they respond to really are
# the patches that activate them most, found in one pass over all there are, wherever these lie:

display = FilterDisplay.from_estimator(sae, layer=1, kind="patches", X=X, n_best=9)

# %%
# Training
# --------
# By iteration, by rows visited, or by seconds. Where the cost is over a growing sample, the
# background is grey.

display = HistoryDisplay.from_estimator(sae)

# %%
# Units that are hardly ever active, or hardly ever not, tell nothing about a sample. There are none
# here:

display = ActivationDisplay.from_estimator(sae)
print(display.n_dead, display.n_saturated)

# %%
# Reconstructions
# ---------------

display = ReconstructionDisplay.from_estimator(sae, X, n_samples=8)

# %%

display = ErrorDisplay.from_estimator(sae, X)

# %%
# Feature maps
# ------------
# Four features of every pixel of a part of an image, in the image's coordinates.

image = skimage.data.chelsea()[60:180, 100:300]
display = FeatureMapDisplay.from_estimator(
    sae, image, preprocess=normalizer, layers=0, features=(0, 1, 2, 3)
)

# %%
# Report
# ------
# All of it on one page, with parameters, data, versions and what it took: ``report.save`` writes a
# file that needs nothing else.

sae.report(X, title="Patches of photographs in colour")
