"""
Fibres in a volume
==================

Patches, filters and maps may have three dimensions. A volume of fibres in noise is stored in chunks
and mapped block by block, so that it need not fit into memory; and since noise has no features, the
reconstruction is without it.
"""

# %%
# Forty wavy fibres, each 5 voxels wide, and noise of nearly half of their brightness, in a chunked
# Zarr array whose dimensions are named.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt, gaussian_filter

from stackedae import (
    FeatureMapDisplay,
    FilterDisplay,
    StackedAutoEncoder,
    extract_patches,
    feature_map,
    reconstruct_image,
)

size = 96
rng = np.random.default_rng(0)
middle = np.zeros((size, size, size), bool)
along = np.linspace(-1.5, 2.5, 600)[:, None]
for start, stop in rng.uniform(0, size, (40, 2, 3)):
    wave = 6 * rng.normal(size=3) * np.sin(4 * along + rng.uniform(0, 6))
    points = np.rint(start + (stop - start) * along + wave).astype(int)
    middle[tuple(points[np.all((points >= 0) & (points < size), axis=1)].T)] = True
truth = gaussian_filter((distance_transform_edt(~middle) <= 2).astype("float32"), 0.7)
noisy = truth + rng.normal(scale=0.4, size=truth.shape).astype("float32")

folder = Path(tempfile.mkdtemp())
volume = xr.DataArray(noisy, dims=("z", "y", "x"), name="volume").chunk(48)
volume.to_dataset().to_zarr(folder / "volume.zarr", consolidated=False)

# %%
# Patches of 8 × 8 × 8 voxels, more of them where there is more to see:

patches = extract_patches(folder / "volume.zarr", (8, 8, 8), 20_000, weights="variance", rng=0)
patches

# %%
# A filter is a volume, shown slice by slice, from left to right, two filters to a row. These are
# short pieces of fibres: spots that stay or wander from slice to slice, or bars that lie in a few.

sae = StackedAutoEncoder(
    (36,), alpha=3e-3, sparsity_target=0.1, max_iter=100, tol=0, random_state=0
)
sae.fit(patches)
display = FilterDisplay.from_estimator(sae, units=range(16))

# %%
# The features of every voxel are 36 times as much as the volume. They are computed when they are
# written, one block after the other, each from its own part of the volume and a margin around it.

features = feature_map(sae, folder / "volume.zarr")
features.to_dataset().to_zarr(folder / "features.zarr", consolidated=False)
features = xr.open_zarr(folder / "features.zarr", consolidated=False).features
print(dict(features.sizes), f"{features.nbytes / 2**20:.0f} MiB,", end=" ")
print("blocks of", *(max(sizes) for sizes in features.chunks), "voxels and features")

# %%
# Of the whole map, only what a slice needs is read again.

display = FeatureMapDisplay(features.isel(z=size // 2), features=(0, 1, 2, 3, 4, 5)).plot()

# %%
# An image that is put together from what the units can say is free of what they cannot. A filter
# that blurs removes noise and fibres alike:

restored = reconstruct_image(sae, folder / "volume.zarr", stride=2).compute()
blurred = {width: gaussian_filter(noisy, width) for width in (0.8, 1.0, 1.2)}


def psnr(image):
    """Return the peak signal to noise ratio, in dB."""
    return 10 * np.log10(1 / np.mean((np.asarray(image) - truth) ** 2))


width, best = max(blurred.items(), key=lambda pair: psnr(pair[1]))
images = {
    "truth": truth,
    f"with noise, {psnr(noisy):.1f} dB": noisy,
    f"blurred (σ = {width}), {psnr(best):.1f} dB": best,
    f"reconstructed, {psnr(restored):.1f} dB": restored,
}
_, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
for ax, (title, image) in zip(axes.flat, images.items(), strict=True):
    ax.imshow(image[size // 2], cmap="gray", vmin=-0.2, vmax=1.0)
    ax.set_title(title)
    ax.set_axis_off()
