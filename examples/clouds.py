"""
The sea below the clouds
========================

Satellites see the temperature of the sea only where there are no clouds. An auto-encoder that
leaves out of its error what is missing learns from such images as they are, and its reconstruction
says what lies below the clouds. Its patches reach over some days, so that what was seen yesterday
helps with today.
"""

# %%
# Forty days of a sea that is warmer in the south and whose eddies drift west by a pixel and a half
# per day, changing as they go; and of clouds that hide two fifths of it.

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from scipy.interpolate import griddata

from stackedae import StackedAutoEncoder, extract_patches, reconstruct_image

rng = np.random.default_rng(0)
time, lat, lon = np.ogrid[:40, :96, :128]


def waves(roughness, drift, change):
    """Return a sum of waves that drift west, each at a speed somewhat its own."""
    total = np.zeros((40, 96, 128), "float32")
    for k_lat, k_lon in rng.uniform(-9, 9, (200, 2)):
        phase = 2 * np.pi * (k_lat * lat + k_lon * (lon + drift * time)) / 128
        phase = phase + change * rng.normal() * time + rng.uniform(0, 2 * np.pi)
        total += (np.hypot(k_lat, k_lon) + 0.7) ** -roughness * np.cos(phase)
    return total / total.std()


truth = xr.DataArray(
    18 + 3 * (lat - 48) / 48 + 1.2 * waves(1.2, drift=1.5, change=0.07),
    dims=("time", "lat", "lon"),
    coords={
        "time": np.datetime64("2025-06-01", "ns") + time.ravel() * np.timedelta64(1, "D"),
        "lat": 50 - 0.25 * lat.ravel(),
        "lon": 0.25 * lon.ravel() - 30,
    },
    attrs={"units": "°C"},
).astype("float32")
clouds = waves(1.0, drift=-6, change=1.0) > 0.25
seen = truth.where(~clouds)
print(f"{float(clouds.mean()):.0%} of all pixels are hidden")

# %%
# What is learned are deviations from the mean of each place, in units of their standard deviation.
# (`ContrastNormalizer` would take the mean of each patch away, which is part of what has to be
# filled in.) A patch is 7 days × 2° × 2°; at least a third of it must have been seen.

mean = seen.mean("time")
deviation = seen - mean
scale = float(deviation.std())
deviation /= scale

dims = ("time", "lat", "lon")
patches = extract_patches(deviation, (7, 8, 8), 12_000, dims=dims, min_valid=1 / 3, rng=0)
sae = StackedAutoEncoder(
    (25,),
    output_activation="identity",
    sparsity_target=0.2,
    missing="mask",
    max_iter=100,
    tol=0,
    random_state=0,
)
sae.fit(patches)

# %%
# Each pixel lies in many patches, whose reconstructions are averaged. For the encoder, what is
# missing is replaced by its mean, so that a first guess comes out too close to the mean. A second
# pass starts from this guess instead:


def error(filled):
    """Return the root mean square error below clouds, in °C."""
    return float(np.sqrt(((filled - truth) ** 2).where(seen.isnull()).mean()))


guess, errors = deviation, {"mean of the place": error(mean)}
for number in ("first", "second"):
    again = reconstruct_image(sae, guess, dims=dims, stride=2).compute()
    guess = deviation.fillna(again)
    filled = guess * scale + mean
    errors[f"{number} pass"] = error(filled)

# %%
# For comparison, what was seen is interpolated, between days or across each image:


def across(image):
    """Return an image whose missing pixels are interpolated from those around them."""
    points = np.argwhere(np.isfinite(image))
    values = image[tuple(points.T)]
    everywhere = np.argwhere(np.ones_like(image))
    inside = griddata(points, values, everywhere, method="linear")
    nearest = griddata(points, values, everywhere, method="nearest")
    return np.where(np.isfinite(inside), inside, nearest).reshape(image.shape)


errors["interpolated between days"] = error(seen.interpolate_na("time").fillna(mean))
errors["interpolated across images"] = error(
    seen.copy(data=np.stack([across(image) for image in seen.values]))
)
for method, value in errors.items():
    print(f"{method:27} {value:.2f} °C")

# %%
# The auto-encoder has learned how this sea moves, which interpolation does not know. A third pass
# would make it worse: the encoder has learned with means in the place of what is missing, and
# without any it goes too far. Where the truth is not known, hiding some of what was seen tells how
# many passes are best.

day = 20
range_ = {"vmin": float(truth[day].min()), "vmax": float(truth[day].max()), "cmap": "cividis"}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", sharey=True)
for ax, (title, image) in zip(
    axes, {"seen": seen, "filled in": filled, "truth": truth}.items(), strict=True
):
    ax.set_facecolor("lightgrey")
    shown = ax.pcolormesh(image.lon, image.lat, image[day], **range_)
    ax.set(title=title, xlabel="longitude (°)", aspect="equal")
axes[0].set_ylabel("latitude (°)")
figure.colorbar(shown, ax=axes, label="temperature of the sea (°C)")
