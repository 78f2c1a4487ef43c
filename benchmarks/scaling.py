"""How evaluations scale: simulated clusters, what the model foretells, and real workers.

    python benchmarks/scaling.py [--markdown FILE] [--quick]
                                 [--only simulation,prediction,plans,workers] [--repeats 7]

Sections, each in a process of its own: "simulation" (the real engine, client and scheduler with up
to 4,000 simulated workers, against `stackedae.forecast`, calibrated in the same run; needs Linux
and 10,000 open files), "prediction" (what the model says of a hundred and a thousand nodes),
"plans" (what `stackedae plan` says of stores on this machine, and what their evaluations take) and
"workers" (real processes on this machine, one to 64 of them).
"""

from __future__ import annotations

import sys

from contests.sections import run

SECTIONS = {
    "simulation": "contests.simulation",
    "prediction": "contests.prediction",
    "plans": "contests.plans",
    "workers": "contests.processes",
}

if __name__ == "__main__":
    sys.exit(run(__doc__, "Scaling", SECTIONS))
