"""
Defects in a wall
=================

An auto-encoder that has seen nothing but sound bricks cannot reconstruct what does not look like
them. Its error, mapped over an image, shows defects of which nobody had an example; what is too
much is read off the errors of another sound part.
"""

# %%
# The upper half of a wall is to learn from, the lower left quarter for the threshold. To the lower
# right one, four defects are added: a scratch as bright as the joints, a crack, a stain with a soft
# border, and a place where the surface is worn, and blurred.

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.special import expit

from stackedae import StackedAutoEncoder, error_map, extract_patches

wall = skimage.data.brick().astype("float32") / 255
sound, another, image = wall[:256], wall[256:, :256], wall[256:, 256:].copy()

rng = np.random.default_rng(0)
y, x = np.mgrid[:256, :256]
wander = np.cumsum(rng.normal(size=(256, 1)), axis=0)
blotch = ((y - 170) / 30) ** 2 + ((x - 70) / 35) ** 2
blotch += gaussian_filter(10 * rng.normal(size=y.shape), 8)
defects = {
    "scratch": (abs(y - 13 - 0.45 * x) < 1.2) & (x > 60) & (x < 190),
    "crack": (abs(x - 150 - wander) < 1) & (y > 130) & (y < 240),
    "stain": blotch < 1,
    "wear": ((y - 180) / 22) ** 2 + ((x - 205) / 28) ** 2 < 1,
}
image = np.where(defects["wear"], gaussian_filter(image, 3), image)
image *= 1 - 0.3 * expit(12 * (1 - blotch))
image[defects["scratch"]] = 0.7
image[defects["crack"]] = 0.28

# %%
# Few units, each active in a fifth of all patches: enough for bricks and joints, and too few for
# anything else. Brightness is left as it is, since it is part of what is normal.

patches = extract_patches(sound, (10, 10), 20_000, rng=0)
sae = StackedAutoEncoder(
    (25,), alpha=1e-5, sparsity_target=0.2, max_iter=100, tol=0, random_state=0
)
sae.fit(patches)

# %%
# The threshold is the error that one in 200 patches of sound wall exceeds.

threshold = float(error_map(sae, another).quantile(0.995))
errors = error_map(sae, image).compute()
alarm = (errors > threshold).values

# %%
# A patch is unusual if there is a defect anywhere in it. So alarms are right up to half of its
# diagonal away from one.

distance = distance_transform_edt(~np.any(list(defects.values()), axis=0))
near = distance <= np.hypot(5, 5)
print(f"alarms that are right  {near[alarm].mean():.2f}")
print(f"sound pixels alarmed   {alarm[~near].mean():.4f}")
for name, where in defects.items():
    print(f"found of the {name:8}  {alarm[where].mean():.2f}")

# %%
# Scratch and crack are found from end to end, and the stain but for its border. What is worn is not
# found at all, and this is not a matter of the threshold: what is smoother than usual is easy to
# reconstruct. Whether a patch has *less* in it than it should have is a question for its features,
# not for the error.

figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
axes[0].imshow(image, cmap="gray")
axes[0].set_title("wall with defects")
for name, (row, column) in {
    "scratch": (60, 130),
    "crack": (250, 128),
    "stain": (215, 50),
    "wear": (215, 190),
}.items():
    axes[0].text(column, row, name, color="white", backgroundcolor="black", fontsize="small")
shown = axes[1].imshow(errors, cmap="cividis", norm="log", vmin=0.01)
axes[1].set_title("error of the patch around every pixel")
figure.colorbar(shown, ax=axes[1], label="½‖r − x‖²", shrink=0.8)
axes[2].imshow(image, cmap="gray")
axes[2].contour(alarm, [0.5], colors="#E69F00", linewidths=1.5)
axes[2].set_title(f"error above {threshold:.2f}")
