"""
Handwritten digits: without labels, then with them
==================================================

The classic exercise for deep networks. Two layers of 200 units learn what digits look like, one
after the other, without being told which is which; a softmax on top of them learns ten names; then
all are trained together, which makes the difference.

It takes some minutes, and the digits of MNIST, in a file that this page cannot bring along: an .npz
with x_train (60000, 28, 28), y_train, x_test and y_test, from 0 to 255. So run it by hand::

    python mnist.py mnist.npz
    python mnist.py mnist.npz --wide
"""

import argparse
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from stackedae import FilterDisplay, StackedAutoEncoder, StackedAutoEncoderClassifier

parser = argparse.ArgumentParser(description="Learn handwritten digits, layer by layer.")
parser.add_argument("digits", help="path of mnist.npz")
parser.add_argument("--wide", action="store_true", help="more units, and settings of our choice")
parser.add_argument("--epochs", type=int, default=30, help="of the softmax, and of all together")
arguments = parser.parse_args()

with np.load(arguments.digits) as file:
    X_train, X_test = (file[name] / np.float32(255) for name in ("x_train", "x_test"))
    y_train, y_test = file["y_train"], file["y_test"]

# %%
# Settings as they were published: a mean activation of 0.1, with weight 3, and decay 0.003; of the
# softmax alone, where all are trained together. That goes in mini-batches here.

sizes = (200, 200)
layers = {"sparsity_target": 0.1, "sparsity_weight": 3.0, "alpha": 3e-3, "tol": 1e-4}
tuning = {"solver": "adam", "batch_size": 128, "learning_rate_init": 3e-3}
tuning |= {"fine_tune_alpha": (0.0, 0.0, 3e-3), "epochs": arguments.epochs}

# %%
# Or of our choice: more units, in mini-batches from the beginning; and in the end three in ten
# pixels set to 0, others in every epoch, so that digits cannot be learned by heart.

if arguments.wide:
    sizes = (500, 300)
    layers = {"sparsity_target": 0.1, "solver": "adam", "epochs": 5}
    tuning |= {"fine_tune_alpha": 1e-5, "corruption": 0.3}

# %%
# Layers are learned from all digits, and no label.

began = time.perf_counter()
stack = StackedAutoEncoder(sizes, **layers, random_state=0).fit(X_train)
print(f"layers: {time.perf_counter() - began:.0f} s")
saved = Path(tempfile.mkdtemp()) / "layers.zarr"
stack.save(saved)

# %%
# Classifiers begin with these: the first leaves them as they are, the second trains them on, by
# what digits are called.

for fine_tune in (False, True):
    began = time.perf_counter()
    model = StackedAutoEncoderClassifier(sizes, pretrained=saved, fine_tune=fine_tune, **tuning)
    model.set_params(random_state=0).fit(X_train, y_train)
    seconds, right = time.perf_counter() - began, model.score(X_test, y_test)
    print(f"{'all together' if fine_tune else 'softmax alone'}: {right:.2%} right, {seconds:.0f} s")

# %%
# What a few units of the first layer look for, before and after; and what is still mistaken.

for name, each in (("before", stack), ("after", model)):
    display = FilterDisplay.from_estimator(each)
    display.figure_.savefig(f"mnist-filters-{name}.png")

said = model.predict(X_test)
wrong = np.flatnonzero(said != y_test)[:24]
_, axes = plt.subplots(3, 8, figsize=(8, 3.6), layout="constrained")
for ax, number in zip(axes.flat, wrong, strict=False):
    ax.imshow(X_test[number], cmap="gray_r")
    ax.set_title(f"{y_test[number]}, taken for {said[number]}", fontsize=7)
for ax in axes.flat:
    ax.set_axis_off()
plt.savefig("mnist-mistakes.png")
