"""Benchmarks for asv: how fast this library is, and how much memory it takes, commit by commit.

    cd benchmarks
    asv run --python=same --quick                          # once each, to see that all works
    asv run --python=same                                  # what is installed, measured properly
    asv run --python=same --bench kernel                   # one module
    asv continuous --environment=virtualenv main HEAD      # two commits, and what got slower

Peak memory is that of the process that asv started, set-up included; workers of a cluster are
not in it. Comparisons with other libraries are in `peers.py`.
"""
