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

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

from contests.measure import Options, surroundings

SECTIONS = {
    "kernel": "contests.kernel",
    "time-to-cost": "contests.time_to_cost",
    "estimators": "contests.estimators",
    "transform": "contests.transform",
}


def main() -> int:
    """Run the sections that were asked for; 1 if one of them failed."""
    parser = argument_parser()
    arguments = parser.parse_args()
    unknown = set(arguments.only) - set(SECTIONS)
    if unknown:
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; {', '.join(SECTIONS)}")
    if arguments.inside:
        print(section(arguments.only[0], options(arguments)))
        return 0
    parts = ["# Peers", surroundings()]
    if arguments.quick:
        parts.append("**Made with --quick: these numbers mean nothing.**")
    print("\n\n".join(parts), flush=True)
    failed = False
    for name in arguments.only:
        child = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--only", name, "--inside"],
            env=os.environ | getattr(importlib.import_module(SECTIONS[name]), "ENVIRONMENT", {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        failed |= child.returncode != 0
        parts.append(child.stdout.strip() if not child.returncode else f"## {name}\n\nfailed")
        print(f"\n{parts[-1]}", flush=True)
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n\n".join(parts) + "\n")
    return int(failed)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the report here too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--natural", metavar="PATH.npz")
    parser.add_argument("--mnist", metavar="PATH.npz")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def options(arguments: argparse.Namespace) -> Options:
    """Return what sections need to know."""
    repeats = 1 if arguments.quick else arguments.repeats
    return Options(arguments.quick, repeats, arguments.natural, arguments.mnist)


def section(name: str, options: Options) -> str:
    """Measure one section in this process; whatever libraries print goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module(SECTIONS[name]).report(options)


if __name__ == "__main__":
    sys.exit(main())
