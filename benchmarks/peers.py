"""This library and its peers, measured side by side in one run.

    python benchmarks/peers.py [--markdown FILE] [--quick] [--only kernel,transform]
                               [--repeats 7] [--natural PATH.npz] [--mnist PATH.npz]

Sections, each in a process of its own: "kernel" (cost and gradient on one core, against PyTorch),
"time-to-cost" (seconds and passes to a cost, against SciPy and PyTorch), "estimators" (against
the auto-encoder of H2O-3 and scikit-learn's MLPRegressor) and "transform" (rows a second).
Contenders take turns in every repeat, so that a slow minute of the machine meets them all. A peer
that is not installed is skipped by name. --quick shrinks everything to a minute: it shows that the
script works, its numbers mean nothing.

--natural names an npz file with "images" (10, 512, 512), whitened (else those of
`stackedae.datasets`); --mnist one with "x_train" (else no section on MNIST).
"""

from __future__ import annotations

import sys

from contests.sections import run

SECTIONS = {
    "kernel": "contests.kernel",
    "time-to-cost": "contests.time_to_cost",
    "estimators": "contests.estimators",
    "transform": "contests.transform",
}

if __name__ == "__main__":
    sys.exit(run(__doc__, "Peers", SECTIONS))
