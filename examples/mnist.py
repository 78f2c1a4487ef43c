"""
Handwritten digits: without labels, then with them
==================================================

The classic exercise for deep networks. Two layers of 200 units learn what digits look like, one
after the other, without being told which is which; then a softmax on top of them learns ten names;
then all are trained together. The last step makes the difference.

It takes minutes, and the digits of MNIST, in a file that this page cannot bring along: an .npz with
x_train (60000, 28, 28), y_train, x_test and y_test, 0 to 255. So it is run by hand::

    python examples/mnist.py mnist.npz
    python examples/mnist.py mnist.npz --wide
"""

import argparse
import tempfile
import time

import numpy as np

from stackedae import StackedAutoEncoder, StackedAutoEncoderClassifier

parser = argparse.ArgumentParser()
parser.add_argument("digits", help="path of mnist.npz")
parser.add_argument("--wide", action="store_true", help="more units, settings of our choice")
parser.add_argument("--figure", default="mnist.png", help="where filters and mistakes are drawn")
arguments = parser.parse_args()

with np.load(arguments.digits) as file:
    X_train, X_test = (file[name] / np.float32(255) for name in ("x_train", "x_test"))
    y_train, y_test = file["y_train"], file["y_test"]

# %%
# Settings as they were published: a mean activation of 0.1, its weight 3, decay 0.003. In the last
# step, the matrix of the softmax alone is decayed.

sizes, settings = (200, 200), {"sparsity_target": 0.1, "sparsity_weight": 3.0, "alpha": 3e-3}
decay = (0.0, 0.0, 3e-3)

# %%
# Layers are learned from all digits, and no label.

began = time.perf_counter()
layers = StackedAutoEncoder(sizes, **settings, tol=1e-4, random_state=0).fit(X_train)
saved = tempfile.mkdtemp()
layers.save(saved, overwrite=True)
print(f"layers: {time.perf_counter() - began:.0f} s, {layers.n_iter_} iterations")

# %%
# Whatever is trained on labels can begin with them: the softmax alone, or all together.

for fine_tune in (False, True):
    began = time.perf_counter()
    model = StackedAutoEncoderClassifier(
        sizes, pretrained=saved, fine_tune=fine_tune, fine_tune_alpha=decay, tol=1e-5
    )
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - began
    when = "after" if fine_tune else "before"
    print(f"{when} fine-tuning: {model.score(X_test, y_test):.2%} right, {seconds:.0f} s")
