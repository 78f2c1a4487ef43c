"""Peak resident memory of extracting and fitting a million patches, in one process.

python benchmarks/memory.py [N_PATCHES]
"""

from __future__ import annotations

import resource
import sys
import tempfile


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the peak after each stage."""
    n_patches = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    from stackedae import StackedAutoEncoder, datasets, extract_patches

    print(f"imports     {peak_mib():8.0f} MiB")
    images = datasets.natural_images()
    print(f"images      {peak_mib():8.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/patches.zarr"
        patches = extract_patches(images, (8, 8), n_patches, store=store, rng=0)
        print(f"extraction  {peak_mib():8.0f} MiB, of {patches.nbytes / 2**20:.0f} MiB of patches")
        StackedAutoEncoder((25,), max_iter=5, tol=0, random_state=0).fit(patches)
    print(f"fit         {peak_mib():8.0f} MiB")


if __name__ == "__main__":
    main()
