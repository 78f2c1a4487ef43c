"""Cables that are pulled out in the middle of an evaluation, and put back."""

import logging
import subprocess
import sys
import time

import pytest

from stackedae import StackedAutoEncoder

CUT = 10
"""Seconds without a cable."""

FIT = """
from distributed import Client
from stackedae import StackedAutoEncoder, open_patches

def tell(record):
    print(record["layer"], record["iteration"], flush=True)

with Client({scheduler!r}):
    sae = StackedAutoEncoder(**{settings}, checkpoint={run!r}, checkpoint_every=1)
    sae.fit(open_patches({patches!r}), callback=tell).save({model!r})
"""

_LOGGER = logging.getLogger("stackedae.tests")


@pytest.fixture
def fit(network, scheduler, patches, settings):
    """Fit on the client's host, while hosts lose their cables."""

    def run(name, without=()):
        client, model = network["client"], f"{name}.zarr"
        code = FIT.format(
            scheduler=scheduler,
            settings=settings,
            patches=str(patches),
            run=f"{name}-run.zarr",
            model=model,
        )
        began = time.monotonic()
        options = {"stdout": subprocess.PIPE, "text": True}
        with client.start(sys.executable, "-c", code, **options) as process:
            for line in process.stdout:
                if without and line == "0 3\n":
                    network.cut(without, CUT)
        _LOGGER.info("%s took %.1f s", name, time.monotonic() - began)
        assert process.returncode == 0
        return StackedAutoEncoder.load(client.disk / model)

    return run


@pytest.fixture(scope="module")
def longest(request):
    return {}


@pytest.mark.parametrize("without", [(), ("worker1",), ("worker1", "worker2"), ("client",)])
def test_a_fit_survives_a_cut(fit, expected, bits, without):
    fitted = fit("-".join(("cut", *without)), without)
    assert bits(fitted) == expected
    seconds = [r["seconds"] for r in fitted.history_]
    print(seconds)
