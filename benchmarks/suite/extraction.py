"""Patches of images, into memory and into a store."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from stackedae import extract_patches
from suite.rows import random_rows


class Extraction:
    """8×8 patches of ten images that are in memory."""

    params = ((10_000, 200_000),)
    param_names = ("patches",)

    def setup(self, n_patches):
        self.images = random_rows(10 * 512, 512).reshape(10, 512, 512)
        self.folder = TemporaryDirectory()

    def teardown(self, n_patches):
        self.folder.cleanup()

    def time_to_memory(self, n_patches):
        extract_patches(self.images, (8, 8), n_patches, rng=0)

    def time_to_store(self, n_patches):
        self._store(n_patches)

    def peakmem_to_store(self, n_patches):
        self._store(n_patches)

    def _store(self, n_patches):
        store = f"{self.folder.name}/patches.zarr"
        extract_patches(self.images, (8, 8), n_patches, store=store, rng=0, overwrite=True)
