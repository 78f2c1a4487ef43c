"""Models that somebody else wrote: refused by name; never run, never larger than they are."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings

from stackedae import StackedAutoEncoder
from stackedae.errors import DamagedChunkError, StoreError

MODEL = Path("model.zarr")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A model, and the folder it is in."""
    folder = tmp_path_factory.mktemp("sound") / "model.zarr"
    X = np.random.default_rng(0).random((60, 6))
    sae = StackedAutoEncoder((4, 2), max_iter=3, tol=0, random_state=3).fit(X)
    sae.save(folder)
    return sae, folder


@pytest.fixture
def model(sound):
    """A copy to do harm to."""
    shutil.copytree(sound[1], MODEL)
    return MODEL


def metadata(path, **changes):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def values(path, change):
    """Change what the document says, and its checksum with it."""
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"]["model"])
    text = json.dumps(document["attributes"]["model"], sort_keys=True).encode()
    document["attributes"]["stackedae"]["crc32"] = zlib.crc32(text)
    (path / "zarr.json").write_text(json.dumps(document))


def rewrite(path, name, array, **options):
    group = zarr.open_group(path, mode="r+")
    del group[name]
    options = {"compressors": ({"name": "crc32c"},), "chunks": array.shape, **options}
    group.create_array(name, data=array, **options)


class Canary:
    """Whoever unpickles this makes a file."""

    def __reduce__(self):
        return os.mkdir, (str(Path("executed").absolute()),)


def a_pickle(path):
    shutil.rmtree(path / "layers/0/b1")
    folder = path / "layers/0/b1"
    folder.mkdir()
    (folder / ".zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2,
                "shape": [4],
                "chunks": [4],
                "dtype": "|O",
                "order": "C",
                "compressor": None,
                "fill_value": None,
                "filters": [{"id": "pickle"}],
            }
        )
    )
    (folder / "0").write_bytes(pickle.dumps([Canary()] * 4))


def a_pickling_codec(path):
    metadata(
        path / "layers/0/b1/zarr.json",
        data_type="string",
        codecs=[{"name": "numcodecs.pickle", "configuration": {}}],
    )
    (path / "layers/0/b1/c/0").write_bytes(pickle.dumps([Canary()] * 4))


def an_old_group(path):
    (path / "zarr.json").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text('{"stackedae": {"kind": "model", "format": 1, "complete": true}}')


def a_link(path):
    Path("secret").write_bytes((path / "layers/0/b1/c/0").read_bytes())
    (path / "layers/0/b1/c/0").unlink()
    (path / "layers/0/b1/c/0").symlink_to(Path("secret").absolute())


def a_linked_folder(path):
    shutil.move(path / "layers/1", "elsewhere")
    (path / "layers/1").symlink_to(Path("elsewhere").absolute())


def a_pipe(path):
    (path / "layers/0/b1/c/0").unlink()
    os.mkfifo(path / "layers/0/b1/c/0")


def lying_metadata(path):
    inner = json.loads((path / "layers/0/b1/zarr.json").read_text())
    metadata(
        path / "zarr.json",
        consolidated_metadata={
            "kind": "inline",
            "must_understand": False,
            "metadata": {"evil": inner},
        },
    )
    (path / "layers/0/b1/zarr.json").unlink()


def absurd_size(path):
    shape = [10**12]
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    metadata(path / "layers/0/b1/zarr.json", shape=shape, chunk_grid=grid)


def too_many_files(path):
    (path / "many").mkdir()
    for i in range(10_001):
        (path / f"many/{i}").touch()


HARM = {
    "a pickle": (a_pickle, "not as it was written: .*not recognized"),
    "a pickling codec": (a_pickling_codec, "not as it was written|not of plain numbers"),
    "a group of Zarr 2": (an_old_group, "not a model store"),
    "a link to a file": (a_link, "is a link or a device, and is not opened"),
    "a link to a folder": (a_linked_folder, "is a link or a device, and is not opened"),
    "a pipe": (a_pipe, "is a link or a device, and is not opened"),
    "metadata that lie": (lying_metadata, "not as it was written: .*not recognized"),
    "an absurd size": (absurd_size, "said to have 4000000000000|said to have 8000000000000"),
    "too many files": (too_many_files, "more than 10000 files"),
    "a bomb": (
        lambda path: rewrite(path, "layers/0/W1", np.zeros((4000, 4000)), compressors="auto"),
        "not of plain numbers with a checksum, but float64 through bytes, zstd",
    ),
    "NaN": (
        lambda path: rewrite(path, "layers/0/b1", np.full(4, np.nan, "f4")),
        "'layers/0/b1' holds NaN or infinity",
    ),
    "infinity": (
        lambda path: rewrite(path, "layers/0/b2", np.full(6, np.inf, "f4")),
        "'layers/0/b2' holds NaN or infinity",
    ),
    "another shape": (
        lambda path: rewrite(path, "layers/0/b1", np.ones(5, "f4")),
        r"'layers/0/b1' has shape \(5,\), not \(4,\)",
    ),
    "another dtype": (
        lambda path: rewrite(path, "layers/0/b1", np.zeros(4, bool)),
        "not of plain numbers with a checksum, but bool",
    ),
    "an array too few": (
        lambda path: shutil.rmtree(path / "layers/1/W2"),
        "'layers/1/W2' is missing",
    ),
    "an array too many": (
        lambda path: zarr.open_group(path).create_array(
            "more", data=np.ones(3), compressors=({"name": "crc32c"},)
        ),
        "there should be no array 'more'",
    ),
    "deep JSON": (
        lambda path: (path / "layers/zarr.json").write_text("[" * 100_000),
        "not as it was written",
    ),
    "much JSON": (
        lambda path: (path / "zarr.json").write_text("[" + "{}," * 10**6 + "{}]"),
        "more than 2097152 bytes",
    ),
    "no JSON": (lambda path: (path / "zarr.json").write_text("<html>"), "not a model store"),
    "a wrong checksum": (
        lambda path: metadata(
            path / "zarr.json",
            attributes={**json.loads((path / "zarr.json").read_text())["attributes"], "model": {}},
        ),
        "the values do not pass their checksum",
    ),
    "no layers": (
        lambda path: values(path, lambda model: model.update(layers=[])),
        "there should be no array|it has no layers",
    ),
    "an absurd layer": (
        lambda path: values(path, lambda m: m["layers"][0]["cost"].update(n_hidden=10**15)),
        "has shape",
    ),
    "words for numbers": (
        lambda path: values(path, lambda m: m["layers"][0]["cost"].update(n_hidden="../../etc")),
        "not as it was written",
    ),
    "an unknown activation": (
        lambda path: values(path, lambda m: m["layers"][0]["cost"].update(activation="exec")),
        "activation='exec' is unknown",
    ),
    "an unknown status": (
        lambda path: values(path, lambda m: m["layers"][0].update(status="OWNED")),
        "not as it was written",
    ),
    "an unknown parameter": (
        lambda path: values(path, lambda m: m["params"].update(shell="rm")),
        "no StackedAutoEncoder can be made of this",
    ),
    "another class": (
        lambda path: values(path, lambda m: m.update({"class": "os.system"})),
        r"this is a model of class os\.system",
    ),
    "a list for a dictionary": (
        lambda path: values(path, lambda m: m.update(params=[1, 2])),
        "no StackedAutoEncoder can be made of this",
    ),
}


@pytest.mark.parametrize(("harm", "message"), HARM.values(), ids=HARM)
def test_what_is_not_a_model_is_refused(model, harm, message):
    harm(model)
    with pytest.raises(StoreError, match=message):
        StackedAutoEncoder.load(model)
    assert not Path("executed").exists()


@pytest.mark.parametrize("given_as", [str, zarr.storage.ZipStore])
def test_an_archive_is_refused(model, given_as):
    shutil.make_archive("model", "zip", model)
    with pytest.raises(StoreError, match=r"is a file, and a store is a folder|is an archive"):
        StackedAutoEncoder.load(given_as("model.zip"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.unlink(),
    ],
    ids=["emptied", "truncated", "zeroed", "gone"],
)
def test_a_damaged_chunk_is_refused(model, damage):
    damage(model / "layers/0/W1/c/0/0")
    with pytest.raises(StoreError, match="layers/0/W1") as caught:
        StackedAutoEncoder.load(model)
    assert isinstance(caught.value, DamagedChunkError) or "bytes" in str(caught.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_harm_is_refused_or_does_nothing(sound, data):
    sae, folder = sound
    shutil.rmtree(MODEL, ignore_errors=True)
    shutil.copytree(folder, MODEL)
    files = sorted(path for path in MODEL.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["flip", "insert", "delete", "truncate"]))
    if how == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        del content[at : at + 1 if how == "delete" else None]
    path.write_bytes(content)
    try:
        again = StackedAutoEncoder.load(MODEL)
    except StoreError:
        return
    for one, other in zip(sae.layers_, again.layers_, strict=True):
        assert one.params.tobytes() == other.params.tobytes()
        assert one.cost == other.cost


def test_a_hostile_model_takes_no_memory(model):
    absurd_size(model)
    code = "import sys; from stackedae import StackedAutoEncoder\n"
    code += "import resource\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += "try: StackedAutoEncoder.load('model.zarr')\nexcept OSError: pass\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    limit = 16 * 2**30
    taken = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert int(taken.stdout) < 100_000
