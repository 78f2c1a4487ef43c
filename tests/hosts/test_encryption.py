"""Hosts that talk in TLS: nobody on the way reads, and nobody else takes part."""

import json

import pytest
from distributed import Security

from stackedae import StackedAutoEncoder

pytestmark = pytest.mark.long

OF_TASKS = "stackedae-"
"""How the names of tasks begin."""


def certify(host, role, security):
    """Give a host the certificates for a role, by settings of Dask."""
    certificate = security.get_tls_config_for_role(role)
    files = {f"{role}.pem": "cert", f"{role}-key.pem": "key", "ca.pem": "ca_file"}
    for name, part in files.items():
        (host.disk / name).write_text(certificate[part])
    own = {"cert": f"{role}.pem", "key": f"{role}-key.pem"}
    comm = {"require-encryption": True, "tls": {"ca-file": "ca.pem", role: own}}
    (host.disk / "dask.json").write_text(json.dumps({"distributed": {"comm": comm}}))
    host.environment["DASK_CONFIG"] = "dask.json"


def test_encrypted_hosts(network, patches, expected, bits, fit_command):
    pytest.importorskip("cryptography")
    security = Security.temporary()
    client = network["client"]
    command = (*fit_command, patches, "--out", "model.zarr", "--overwrite", "--scheduler")

    def refuse(scheduler, config):
        environment = {"DASK_CONFIG": config, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
        status, said = client.run(*command, scheduler, env=environment)
        assert status == 2
        assert f"{scheduler}: no scheduler can be reached there" in said

    certify(network["scheduler"], "scheduler", security)
    certify(network["worker1"], "worker", security)
    certify(network["worker2"], "worker", security)
    certify(client, "client", security)
    with network.cluster("tls") as scheduler:
        with network.listening(OF_TASKS) as heard:
            client.succeed(*command, scheduler)
        n_packets, n_with_names = heard
        assert n_packets > 100
        assert n_with_names == 0
        assert bits(StackedAutoEncoder.load(client.disk / "model.zarr")) == expected

        refuse(scheduler, "")
        certify(client, "client", Security.temporary())  # by somebody else
        refuse(scheduler, "dask.json")
