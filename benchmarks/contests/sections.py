"""A script of sections, each measured in a process of its own, and the report that they make."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from contests.measure import Options, surroundings


def run(description: str | None, title: str, sections: Mapping[str, str]) -> int:
    """Run the sections that were asked for on the command line; 1 if one of them failed.

    Parameters
    ----------
    description, title : str
        Of the script, and of its report.
    sections : mapping of str to str
        The module of each, which has a function `report`, and perhaps an ENVIRONMENT that must be
        set before NumPy is imported.
    """
    parser = argument_parser(description, sections)
    arguments = parser.parse_args()
    unknown = set(arguments.only) - set(sections)
    if unknown:
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; {', '.join(sections)}")
    if arguments.inside:
        print(section(sections[arguments.only[0]], options(arguments)))
        return 0
    parts = [f"# {title}", surroundings()]
    if arguments.quick:
        parts.append("**Made with --quick: these numbers mean nothing.**")
    print("\n\n".join(parts), flush=True)
    failed = False
    for name in arguments.only:
        child = subprocess.run(
            [sys.executable, *sys.argv, "--only", name, "--inside"],
            env=os.environ | getattr(importlib.import_module(sections[name]), "ENVIRONMENT", {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        failed |= child.returncode != 0
        parts.append(child.stdout.strip() if not child.returncode else f"## {name}\n\nfailed")
        print(f"\n{parts[-1]}", flush=True)
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n\n".join(parts) + "\n")
    return int(failed)


def argument_parser(
    description: str | None, sections: Mapping[str, str]
) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the report here too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(sections))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--natural", metavar="PATH.npz")
    parser.add_argument("--mnist", metavar="PATH.npz")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def options(arguments: argparse.Namespace) -> Options:
    """Return what sections need to know."""
    repeats = 1 if arguments.quick else arguments.repeats
    return Options(arguments.quick, repeats, arguments.natural, arguments.mnist)


def section(module: str, options: Options) -> str:
    """Measure one section in this process; whatever libraries print goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module(module).report(options)
