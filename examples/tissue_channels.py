"""
Nuclei and glands in stained tissue
===================================

A section of tissue with two stains is an image with two named channels, stored in chunks. A nucleus
in a gland is no darker than what surrounds it, so that the stains of a pixel do not tell what it
is; features of the patch around it do, and a classifier from scikit-learn needs only some spots
marked by hand.
"""

# %%
# Stains are unmixed from the photograph: haematoxylin is taken up by nuclei, DAB marks a protein of
# the glands. As a Dataset in Zarr, each is a variable; read as an image, each is a channel, and
# from here on only the chunks that are needed are read.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from skimage.color import rgb2hed
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline

from stackedae import (
    FilterDisplay,
    StackedAutoEncoder,
    ZCAWhitener,
    extract_patches,
    feature_map,
    open_image,
)

photograph = skimage.data.immunohistochemistry()
haematoxylin, _, dab = np.moveaxis(rgb2hed(photograph).astype("float32"), -1, 0)
stains = xr.Dataset({"haematoxylin": (("y", "x"), haematoxylin), "dab": (("y", "x"), dab)})
stains = (stains / stains.quantile(0.99)).clip(0, 1)
store = Path(tempfile.mkdtemp()) / "tissue.zarr"
stains.drop_vars("quantile").chunk(y=128, x=128).to_zarr(store, consolidated=False)

image = open_image(store)
image

# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for ax, channel in zip(axes, image.compute(), strict=True):
    shown = ax.imshow(channel, cmap="cividis", vmin=0, vmax=1)
    ax.set_title(str(channel.channel.values))
figure.colorbar(shown, ax=axes, label="stain, relative to its 99th percentile")

# %%
# Part of the image is empty. Drawn in proportion to their variance, patches come from where there
# is something to learn:


def share_of_flat(patches):
    """Return the share of patches that hardly vary."""
    return float((patches.var(("y", "x")).sum("channel") < 0.005).mean())


uniform = extract_patches(store, (8, 8), 20_000, rng=0)
patches = extract_patches(store, (8, 8), 20_000, weights="variance", rng=0)
print(f"flat patches: {share_of_flat(uniform):.0%} if drawn uniformly,", end=" ")
print(f"{share_of_flat(patches):.0%} in proportion to their variance")

# %%
# Whitening removes what neighbouring pixels and both channels have in common, but keeps how much
# stain there is, which `ContrastNormalizer` would take away. Pairs of pictures are the two channels
# of a filter, DAB first: spots and edges in one stain or in both.

pipeline = make_pipeline(
    ZCAWhitener(epsilon=0.1),
    StackedAutoEncoder((64,), alpha=1e-3, sparsity_target=0.1, max_iter=80, tol=0, random_state=0),
)
pipeline.fit(patches)
display = FilterDisplay.from_estimator(pipeline[-1], units=range(32))

# %%
# Spots of 5 × 5 pixels were marked by hand, as (row, column) of their middles: in the left half to
# learn from, in the right half to see how well that went.

# fmt: off
kinds = ["nucleus in a gland", "rest of a gland", "nucleus elsewhere", "rest"]
left = [
    [(268, 60), (285, 96), (220, 50), (238, 63), (250, 75), (308, 108), (352, 80), (355, 112),
     (358, 142), (340, 122), (376, 122), (420, 120), (430, 142), (446, 128), (405, 142), (211, 30),
     (452, 95), (226, 199)],
    [(290, 45), (330, 60), (365, 110), (315, 80), (335, 85), (275, 30), (360, 60), (432, 80),
     (300, 60), (252, 180), (386, 120), (395, 140), (405, 100), (440, 92), (250, 20), (425, 60),
     (262, 90)],
    [(229, 103), (250, 106), (261, 118), (277, 121), (255, 131), (252, 154), (266, 172), (267, 198),
     (287, 229), (272, 244), (298, 227), (355, 188), (380, 194), (355, 222), (379, 226), (395, 237),
     (393, 180), (425, 173), (430, 218), (445, 203), (452, 195), (416, 186), (305, 135),
     (308, 229)],
    [(235, 130), (280, 160), (290, 200), (310, 180), (340, 215), (370, 210), (325, 175), (350, 170),
     (440, 185), (275, 185), (330, 228), (350, 240), (450, 218), (300, 150), (385, 205), (225, 90),
     (320, 15), (340, 30), (360, 10), (380, 35), (370, 22), (395, 30), (330, 8), (420, 12),
     (350, 42), (312, 8)],
]
right = [
    [(350, 267), (335, 278), (343, 291), (367, 307), (339, 323), (345, 335), (360, 344), (358, 326),
     (376, 330), (353, 358), (366, 365), (384, 370), (375, 347), (410, 359), (436, 368), (428, 274),
     (413, 268), (425, 352), (392, 350), (255, 367), (245, 339), (260, 398), (457, 358), (466, 340),
     (370, 272), (265, 420), (462, 316)],
    [(325, 315), (333, 335), (400, 308), (412, 330), (395, 333), (400, 290), (425, 305), (440, 325),
     (365, 257), (230, 370), (225, 388), (290, 408), (245, 382), (437, 295), (425, 330), (380, 300),
     (355, 368), (445, 370)],
    [(251, 297), (240, 305), (270, 333), (280, 295), (291, 316), (292, 357), (292, 286), (265, 260),
     (322, 379), (365, 389), (350, 406), (365, 418), (380, 416), (320, 424), (306, 442), (325, 441),
     (240, 482), (272, 489), (365, 491), (345, 463), (380, 463), (415, 488), (430, 407), (250, 453),
     (450, 266), (270, 269)],
    [(305, 355), (300, 420), (260, 470), (420, 395), (450, 405), (400, 400), (330, 400), (290, 470),
     (300, 260), (305, 340), (330, 455), (300, 480), (315, 360), (350, 435), (290, 340), (260, 320),
     (470, 410), (410, 440), (420, 455), (400, 460), (430, 440), (437, 430), (393, 450), (430, 465),
     (410, 463), (445, 455)],
]
# fmt: on


def marked(spots):
    """Return the kind of every pixel, or -1."""
    labels = xr.full_like(image[0], -1, dtype=int).compute()
    for kind, middles in enumerate(spots):
        for y, x in middles:
            labels[y - 2 : y + 3, x - 2 : x + 3] = kind
    return labels.stack(pixel=("y", "x"))


# %%
# For scikit-learn, pixels are samples: ``stack`` makes them so, and ``unstack`` brings what comes
# out back to the image. The classifier gets the features of every pixel, or for comparison the two
# stains of the pixel alone.

training, test = marked(left), marked(right)
inputs = {
    "stains": image.rename(channel="feature"),
    "features": feature_map(pipeline, store),
}
maps = {}
print(f"share found in the right half  {'  '.join(kinds)}")
for name, values in inputs.items():
    pixels = values.compute().stack(pixel=("y", "x")).transpose("pixel", "feature")
    forest = RandomForestClassifier(
        min_samples_leaf=2, class_weight="balanced", n_jobs=-1, random_state=0
    )
    forest.fit(pixels[training >= 0], training[training >= 0])
    found = xr.DataArray(forest.predict(pixels), coords={"pixel": pixels.pixel})
    maps[name] = found.unstack("pixel")
    shares = recall_score(test[test >= 0], found[test >= 0], average=None)
    row = "  ".join(f"{share:{len(kind)}.2f}" for kind, share in zip(kinds, shares, strict=True))
    print(f"{name:29}  {row}")

# %%
# By stains alone, two fifths of the pixels of nuclei in glands are taken for something else; with
# what is around them, nine in ten are found. What a patch cannot tell so well is where a nucleus
# ends: those outside of glands come out larger than they are.

colors = ["#0072B2", "#E69F00", "#56B4E9", "#F0F0F0"]
figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
axes[0].imshow(photograph)
axes[0].set_title("photograph")
for ax, (name, found) in zip(axes[1:], maps.items(), strict=True):
    ax.imshow(found, cmap=ListedColormap(colors), vmin=0, vmax=3, interpolation="nearest")
    ax.set_title(f"from {name}")
handles = [
    Patch(facecolor=color, edgecolor="grey", label=kind)
    for color, kind in zip(colors, kinds, strict=True)
]
figure.legend(handles=handles, loc="outside lower center", ncols=4)
