"""What the engine adds to the kernel: workers, threads, many chunks, rows that are streamed.

    python benchmarks/engine.py [--markdown FILE] [--quick] [--only workers,chunks,streaming]
                                [--repeats 7]

Sections, each in a process of its own: "workers" (an evaluation on two worker processes and on two
threads, against the kernel on one core), "chunks" (an evaluation over 100,000 small chunks, and how
its time grows with the rows) and "streaming" (4 GB of rows through two workers of 1 GB, against
reading alone and computing alone). All need some 10 GB of disk, and an idle machine of two cores.
"""

from __future__ import annotations

import sys

from contests.sections import run

SECTIONS = {
    "workers": "contests.workers",
    "chunks": "contests.chunks",
    "streaming": "contests.streaming",
}

if __name__ == "__main__":
    sys.exit(run(__doc__, "Engine", SECTIONS))
