"""What `peers.py` measures: one module for each section of its report."""
