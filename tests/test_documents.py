"""Models and checkpoints of strangers: refused by name; never run, never larger than they are."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings

from stackedae import StackedAutoEncoder, extract_patches
from stackedae.checkpoint import read_checkpoint
from stackedae.documents import MOST_JSON_BYTES
from stackedae.errors import CheckpointError, DamagedChunkError, StoreError

MODEL, RUN = Path("model.zarr"), Path("run.zarr")
OLDER, NEWEST = RUN / "00000005", RUN / "00000006"

SETTINGS = {"hidden_layer_sizes": (4, 2), "max_iter": 3, "tol": 0, "random_state": 3}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a model, and with a checkpoint of the same fit within the second layer."""
    folder = tmp_path_factory.mktemp("sound")
    sae = StackedAutoEncoder(**SETTINGS, checkpoint=folder / RUN, checkpoint_every=1)
    X = np.random.default_rng(0).random((60, 6))

    def copy_in_the_second_layer(record):
        if (record["layer"], record["iteration"]) == (1, 2):
            shutil.copytree(folder / RUN, folder / "copy")

    sae.fit(X, callback=copy_in_the_second_layer).save(folder / MODEL)
    shutil.rmtree(folder / RUN)
    shutil.move(folder / "copy", folder / RUN)
    return folder


@pytest.fixture
def model(sound):
    """A copy to do harm to."""
    return Path(shutil.copytree(sound / MODEL, MODEL))


@pytest.fixture
def run(sound):
    """The only generation of a checkpoint, to do harm to."""
    shutil.copytree(sound / RUN, RUN)
    shutil.rmtree(OLDER)
    return NEWEST


@pytest.fixture(params=["model", "checkpoint"])
def either(request):
    """A model or a generation, the error that harm to it gives, and how it is loaded."""
    if request.param == "model":
        path = request.getfixturevalue("model")
        return path, StoreError, lambda: StackedAutoEncoder.load(MODEL)
    return request.getfixturevalue("run"), CheckpointError, lambda: read_checkpoint(RUN)


def assert_refused(error, message, load, *args):
    with pytest.raises((StoreError, CheckpointError), match=message) as caught:
        load(*args)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 600


# --- files ------------------------------------------------------------------------------------


def metadata(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def b1(**changes):
    return lambda path: metadata(path / "layers/0/b1/zarr.json", **changes)


def text(name, content):
    return lambda path: (path / name).write_text(content)


def values(change):
    """Change what the document says, and its checksum with it."""

    def harm(path):
        document = json.loads((path / "zarr.json").read_text())
        (kind,) = set(document["attributes"]) - {"stackedae"}
        change(document["attributes"][kind])
        said = json.dumps(document["attributes"][kind], sort_keys=True).encode()
        document["attributes"]["stackedae"]["crc32"] = zlib.crc32(said)
        (path / "zarr.json").write_text(json.dumps(document))

    return harm


def array(name, content, **options):
    """Put other content into an array, or make one, and its checksum with it."""

    def harm(path):
        group = zarr.open_group(path, mode="r+")
        same = {"compressors": None, "chunks": content.shape}
        group.create_array(name, data=content, overwrite=True, **{**same, **options})
        marker = group.attrs["stackedae"]
        marker["arrays"][name] = zlib.crc32(content.data)
        group.attrs["stackedae"] = marker

    return harm


def chunk(change):
    def harm(path):
        path /= "layers/0/b1/c/0"
        path.write_bytes(change(path.read_bytes()))

    return harm


class Canary:
    """Whoever unpickles this makes a folder."""

    def __reduce__(self):
        return os.mkdir, (str(Path("executed").absolute()),)


def a_pickle(path):
    folder = path / "layers/0/b1"
    shutil.rmtree(folder)
    folder.mkdir()
    old = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "order": "C"}
    old |= {"compressor": None, "fill_value": None, "filters": [{"id": "pickle"}]}
    (folder / ".zarray").write_text(json.dumps(old))
    (folder / "0").write_bytes(pickle.dumps([Canary()] * 4))


def a_pickling_codec(path):
    codecs = [{"name": "numcodecs.pickle", "configuration": {}}]
    b1(data_type="string", codecs=codecs)(path)
    (path / "layers/0/b1/c/0").write_bytes(pickle.dumps([Canary()] * 4))


def an_old_group(path):
    (path / "zarr.json").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text('{"stackedae": {"kind": "model", "format": 1, "complete": true}}')


def a_link(path):
    shutil.move(path / "layers/0/b1/c/0", "secret")
    (path / "layers/0/b1/c/0").symlink_to(Path("secret").absolute())


def a_linked_folder(path):
    shutil.move(path / "layers/0", "elsewhere")
    (path / "layers/0").symlink_to(Path("elsewhere").absolute())


def sized(*shape, chunks=None):
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks or shape}}
    return b1(shape=shape, chunk_grid=grid, dimension_names=[None] * len(shape))


def deep_folders(path):
    """Make a path that is longer than the system takes."""
    here = Path.cwd()
    os.chdir(path)
    for _ in range(50):
        os.mkdir("f" * 100)
        os.chdir("f" * 100)
    os.chdir(here)


def too_many_files(path):
    for i in range(2, 10_001):
        (path / f"layers/{i}").touch()


NO_STORE = "not a (model|progress) store"
LINKED = "is a link or a device, and is not opened"
TOO_MUCH_JSON = "[" + "{}," * 1_400_000 + "{}]"

FILES = {
    "a pickle": (a_pickle, "'layers/0/b1' is missing"),
    "a pickling codec": (
        a_pickling_codec,
        r"not of plain numbers, but 'string' through \('numcodecs.pickle',\)",
    ),
    "a codec of nobody": (
        b1(codecs=[{"name": "os.system"}]),
        r"not of plain numbers, but 'float32' through \('os.system',\)",
    ),
    "codecs that are none": (b1(codecs=7), "not as it was written: TypeError"),
    "objects": (b1(data_type="object"), "not of plain numbers, but 'object'"),
    "huge numbers": (
        b1(data_type={"name": "raw_bytes", "configuration": {"length_bytes": 2 * 10**9}}),
        "not of plain numbers, but {'name': 'raw_bytes'",
    ),
    "a bomb": (
        array("layers/0/W1", np.zeros((2000, 2000)), compressors="auto"),
        r"not of plain numbers, but 'float64' through \('bytes', 'zstd'\)",
    ),
    "a bomb of Blosc": (
        array("layers/0/W1", np.zeros((2000, 2000)), compressors=zarr.codecs.BloscCodec()),
        r"not of plain numbers, but 'float64' through \('bytes', 'blosc'\)",
    ),
    "shards": (
        array("layers/0/W1", np.zeros((4, 6), "f4"), chunks=(2, 6), shards=(4, 6)),
        r"but 'float32' through \('sharding_indexed',\)",
    ),
    "a group of Zarr 2": (an_old_group, NO_STORE),
    "a link to a file": (a_link, LINKED),
    "a link to a folder": (a_linked_folder, LINKED),
    "too many files": (too_many_files, "more than 10000 files"),
    "deep folders": (deep_folders, "not as it was written: OSError.*File name too long"),
    "an absurd size of nothing": (
        sized(10**12, 0, chunks=[10**12, 1]),
        r"has shape \(1000000000000, 0\), not \(4,\)",
    ),
    "a negative size": (sized(-4), "not as it was written: ValueError"),
    "a size in words": (sized("../../.."), "not as it was written: TypeError"),
    "many chunks": (sized(4, chunks=[1]), "'layers/0/b1' does not have one chunk of its own shape"),
    "NaN": (array("layers/0/b1", np.full(4, np.nan, "f4")), "'layers/0/b1' holds NaN or infinity"),
    "infinity": (
        array("layers/0/b2", np.full(6, -np.inf, "f4")),
        "'layers/0/b2' holds NaN or infinity",
    ),
    "another shape": (
        array("layers/0/b1", np.ones(5, "f4")),
        r"'layers/0/b1' has shape \(5,\), not \(4,\)",
    ),
    "more dimensions": (
        array("layers/0/b1", np.ones((4, 1), "f4")),
        r"'layers/0/b1' has shape \(4, 1\), not \(4,\)",
    ),
    "integers": (
        array("layers/0/b1", np.zeros(4, int)),
        "not of plain numbers, but 'int64'",
    ),
    "several precisions": (array("layers/0/b1", np.ones(4)), "layers/0 is of several precisions"),
    "another precision": (
        array("layers/0/mean_activations", np.ones(4, "f4")),
        "'layers/0/mean_activations' is of float32, not float64",
    ),
    "an array too few": (
        lambda path: shutil.rmtree(path / "layers/0/W2"),
        "'layers/0/W2' is missing",
    ),
    "an array too many": (array("more", np.ones(3)), "there should be no array 'more'"),
    "a group instead of an array": (
        text("layers/0/b1/zarr.json", '{"zarr_format": 3, "node_type": "group"}'),
        "'layers/0/b1' is missing",
    ),
    "a node of no type": (text("layers/0/b1/zarr.json", "{}"), "not as it was written: KeyError"),
    "nested JSON": (
        text("layers/zarr.json", "[" * 100_000),
        "not as it was written: RecursionError",
    ),
    "nested JSON at the root": (text("zarr.json", '{"a":' * 100_000), NO_STORE),
    "much JSON": (text("layers/zarr.json", TOO_MUCH_JSON), "are more than 4194304 bytes"),
    "much JSON in many files": (
        lambda path: [
            metadata(file, attributes={"": "x" * (MOST_JSON_BYTES // 5)})
            for file in (path / "layers/0").glob("*/zarr.json")
        ],
        "are more than 4194304 bytes",
    ),
    "long numbers": (text("layers/zarr.json", "9" * 10_000), "not as it was written: ValueError"),
    "no JSON": (text("zarr.json", "<html>"), NO_STORE),
    "no text": (
        lambda path: (path / "layers/zarr.json").write_bytes(b"\xff\xfe\x00"),
        "not as it was written: UnicodeDecodeError",
    ),
    "a list for a group": (text("zarr.json", "[]"), NO_STORE),
    "a list for attributes": (
        lambda path: metadata(path / "zarr.json", attributes=["model", "progress"]),
        NO_STORE,
    ),
    "a wrong checksum": (
        lambda path: (path / "zarr.json").write_text(
            (path / "zarr.json").read_text().replace('"n_hidden": 4', '"n_hidden": 5')
        ),
        "the values do not pass their checksum; restore the store",
    ),
}


@pytest.mark.parametrize(("harm", "message"), FILES.values(), ids=FILES)
def test_files_that_nobody_should_trust_are_refused(either, harm, message):
    path, error, load = either
    harm(path)
    # Of these, nothing in the checkpoint is looked at, so that no older generation would help.
    whole = harm in (a_link, a_linked_folder, deep_folders, too_many_files)
    assert_refused(StoreError if whole else error, message, load)
    assert not Path("executed").exists()


CHUNKS = {
    "missing": (lambda path: (path / "layers/0/b1/c/0").unlink(), "is missing"),
    "a folder": (
        lambda path: (
            (path / "layers/0/b1/c/0").unlink(),
            (path / "layers/0/b1/c/0").mkdir(),
        ),
        "is missing",
    ),
    "of an absurd size": (sized(10**12), "has 16 bytes, not 4000000000000"),
    "of a size beyond all": (sized(2**70), f"has 16 bytes, not {2**72}"),
    "empty": (chunk(lambda old: b""), "has 0 bytes, not 16"),
    "truncated": (chunk(lambda old: old[:-1]), "has 15 bytes, not 16"),
    "too long": (chunk(lambda old: old * 2), "has 32 bytes, not 16"),
}


@pytest.mark.parametrize(("harm", "message"), CHUNKS.values(), ids=CHUNKS)
def test_a_damaged_chunk_is_named(either, harm, message):
    path, error, load = either
    harm(path)
    error = DamagedChunkError if error is StoreError else error
    assert_refused(error, f"chunk layers/0/b1/c/0 {message}.*; restore it", load)


def swapped(path):
    shutil.copy(path / "layers/0/W1/c/0/0", path / "layers/0/W2/c/0/0")


ALTERED = {
    "zeroed": (chunk(lambda old: bytes(16)), "b1"),
    "flipped": (chunk(lambda old: old[:7] + bytes([old[7] ^ 16]) + old[8:]), "b1"),
    "in another place": (swapped, "W2"),
}


@pytest.mark.parametrize(("harm", "name"), ALTERED.values(), ids=ALTERED)
def test_an_altered_array_is_named(either, harm, name):
    path, error, load = either
    harm(path)
    error = DamagedChunkError if error is StoreError else error
    assert_refused(error, f"'layers/0/{name}' is not what was written there; restore", load)


def assert_nobody_waits(pipe, error, load):
    pipe.unlink()
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        try:
            assert_refused(error, LINKED, loading.result, 20)
        finally:
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # whoever waits goes on


@pytest.mark.parametrize("name", ["layers/0/b1/c/0", "layers/0/b1/zarr.json", "zarr.json"])
def test_nobody_waits_for_a_pipe(either, name):
    path, _, load = either
    # Of a checkpoint, nothing is looked at if there is a pipe anywhere.
    assert_nobody_waits(path / name, StoreError, load)


def test_nobody_waits_for_a_pipe_at_the_root_of_a_checkpoint(run):
    assert_nobody_waits(RUN / "zarr.json", StoreError, lambda: read_checkpoint(RUN))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "not a checkpoint store"),
        (TOO_MUCH_JSON, "are more than 4194304 bytes"),
        ("", "not a checkpoint store"),
        ('{"zarr_format": 3, "node_type": "group"}', "this is a foreign Zarr store"),
        ('{"zarr_format": 3, "node_type": "group", "attributes": [1]}', "not a checkpoint store"),
    ],
    ids=["nested", "much", "empty", "foreign", "of a wrong type"],
)
def test_the_root_of_a_checkpoint_is_read_with_care(run, content, message):
    (RUN / "zarr.json").write_text(content)
    assert_refused(StoreError, message, read_checkpoint, RUN)
    sae = StackedAutoEncoder(**SETTINGS, checkpoint=RUN)
    assert_refused(StoreError, message, sae.fit, np.ones((60, 6)))


# --- copies of metadata, and names --------------------------------------------------------------


def assert_same(one, other):
    for a, b in zip(one.layers_, other.layers_, strict=True):
        assert a.params.tobytes() == b.params.tobytes()
        assert a.params.dtype == b.params.dtype
        assert a.mean_activations.tobytes() == b.mean_activations.tobytes()
        assert (a.cost, a.status) == (b.cost, b.status)
    assert repr(one.history_) == repr(other.history_)
    assert repr((one.get_params(), one.info)) == repr((other.get_params(), other.info))
    assert (one.n_features_in_, one.sample_shape_) == (other.n_features_in_, other.sample_shape_)


@pytest.mark.parametrize("group", ["", "layers", "layers/0"])
@pytest.mark.parametrize("name", ["b1", "evil", "../../../outside", "/outside"])
def test_consolidated_metadata_that_lie_are_not_looked_at(sound, model, group, name):
    lie = json.loads((model / "layers/0/b1/zarr.json").read_text())
    lie |= {"shape": [3], "codecs": [{"name": "evil"}]}
    shutil.copytree(model / "layers/0/b1", "outside")
    copies = {"kind": "inline", "must_understand": False, "metadata": {name: lie}}
    metadata(model / group / "zarr.json", consolidated_metadata=copies)
    assert_same(StackedAutoEncoder.load(model), StackedAutoEncoder.load(sound / MODEL))


@pytest.mark.parametrize("encoding", ["../../../../secret", "/secret", "v3"])
def test_chunks_do_not_lie_outside_the_folder(either, encoding):
    path, error, load = either
    shutil.move(path / "layers/0/b1/c/0", "secret")
    before = sorted(Path.cwd().rglob("*"))
    for key in (
        {"name": encoding},
        {"name": "default", "configuration": {"separator": encoding}},
    ):
        b1(chunk_key_encoding=key)(path)
        assert_refused(error, "not as it was written: ", load)
    assert sorted(Path.cwd().rglob("*")) == before


def test_layers_do_not_lie_outside_the_folder(either):
    path, error, load = either
    shutil.copytree(path / "layers/0", "secret")
    values(lambda v: v.update(layers={"../../secret": v["layers"][0]}))(path)
    assert_refused(error, "not as it was written: TypeError", load)


def test_means_do_not_lie_outside_the_folder(run):
    shutil.copytree(run / "state/mean/activations", "secret")
    values(lambda v: v["now"]["state"].update(means=["../../../../secret"]))(run)
    message = r"the array 'state/mean/\.\./\.\./\.\./\.\./secret' is missing"
    assert_refused(CheckpointError, message, read_checkpoint, RUN)


def test_what_is_no_array_is_passed_over(sound, model):
    (model / "README").write_text("a note")
    (model / "layers/.DS_Store").touch()
    zarr.open_group(model, mode="r+").create_group("empty")
    assert_same(StackedAutoEncoder.load(model), StackedAutoEncoder.load(sound / MODEL))


# --- values -----------------------------------------------------------------------------------


def cost(**changes):
    return lambda v: v["layers"][0]["cost"].update(changes)


OF_LAYERS = {
    "no layers": (lambda v: v.update(layers=[]), "the history is not of these layers"),
    "a layer too many": (lambda v: v["layers"].append({**v["layers"][0]}), "/W1' is missing"),
    "layers in a number": (lambda v: v.update(layers=3), "TypeError"),
    "layers in words": (lambda v: v.update(layers="layers"), "TypeError"),
    "layers nowhere": (lambda v: v.pop("layers"), "KeyError.*layers"),
    "an absurd layer": (cost(n_hidden=10**15), r"has shape \(4, 6\), not \(1000000000000000, 6\)"),
    "a layer beyond all": (cost(n_features=10**300), "should be int"),
    "a negative layer": (cost(n_hidden=-4), "-4 should be int"),
    "a layer of nothing": (cost(n_hidden=0), "n_hidden=0 is no size"),
    "a layer in words": (cost(n_hidden="4"), "'4' should be int"),
    "a layer of fractions": (cost(n_hidden=4.0), r"4\.0 should be int"),
    "a layer in a list": (cost(n_hidden=[4]), r"\[4\] should be int"),
    "a yes for a size": (cost(n_hidden=True), "True should be int"),
    "NaN for a weight": (cost(alpha=float("nan")), "nan should be float"),
    "a weight in words": (cost(alpha="0.1"), r"'0\.1' should be float"),
    "a weight beyond all": (cost(alpha=10**400), "OverflowError"),
    "a negative weight": (cost(sparsity_weight=-1.0), r"sparsity_weight=-1\.0 is not a finite"),
    "an unknown activation": (cost(activation="exec"), "activation='exec' is unknown"),
    "an activation in a list": (cost(activation=["tanh"]), "should be str"),
    "a fill in words": (cost(fill=["a"] * 6), "should be float|multiple values"),
    "an unknown entry": (cost(shell="rm -rf"), "KeyError.*shell"),
    "an unknown status": (lambda v: v["layers"][0].update(status="OWNED"), "KeyError.*OWNED"),
    "a status in a list": (lambda v: v["layers"][0].update(status=["x"]), "TypeError"),
    "an unknown key": (lambda v: v["layers"][0].update(code="x"), "TypeError.*code"),
    "other columns": (lambda v: v["history"].__setitem__(0, "__class__"), "has the columns"),
    "columns twice": (lambda v: v["history"].__setitem__(0, "cost"), "has the columns"),
    "columns of numbers": (lambda v: v.update(history=[1] * 18), "has the columns"),
    "columns in a number": (lambda v: v.update(history=14), "TypeError"),
    "columns too few": (lambda v: v["history"].pop(), r"'history' has shape \(\d, 18\)"),
}

OF_A_MODEL = {
    "a layer too few": (lambda v: v["layers"].pop(), "the history is not of these layers"),
    "an unknown parameter": (lambda v: v["params"].update(shell="rm"), "TypeError.*shell"),
    "parameters in a list": (lambda v: v.update(params=[1, 2]), "AttributeError"),
    "nested parameters": (lambda v: v["params"].update(tol={"a": [1]}), "no parameter can be"),
    "another class": (lambda v: v.update({"class": "os.system"}), "is of class 'os.system'"),
    "no class": (lambda v: v.pop("class"), "KeyError"),
    "features that do not fit": (lambda v: v.update(n_features_in=7), "do not fit its first"),
    "features without end": (lambda v: v.update(n_features_in=float("inf")), "do not fit"),
    "a sample that does not fit": (lambda v: v.update(sample_shape=[7]), "do not fit its first"),
    "a negative sample": (lambda v: v.update(sample_shape=[-2, -3]), "-2 should be int"),
    "names too few": (lambda v: v.update(feature_names_in=["a"]), "names for other features"),
    "names of lists": (lambda v: v.update(feature_names_in=[["a"]] * 6), "should be str"),
    "too many channels": (lambda v: v.update(channel_names=["a"] * 7), "are not . names"),
    "dimensions in a word": (lambda v: v.update(sample_dims="yx"), "'yx' are not . names"),
    "dimensions of lists": (lambda v: v.update(channel_names=[["a"]] * 6), "names|should be str"),
    "info in a number": (lambda v: v.update(info=3), "TypeError"),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [*OF_LAYERS.values(), *OF_A_MODEL.values()],
    ids=[*OF_LAYERS, *OF_A_MODEL],
)
def test_a_model_of_other_values_is_refused(model, change, message):
    values(change)(model)
    assert_refused(StoreError, message, StackedAutoEncoder.load, model)


def now(part, **changes):
    return lambda v: v["now"][part].update(changes)


OF_A_CHECKPOINT = {
    "an unknown stage": (now("stage", name="shell"), "there is no stage 'shell'"),
    "a stage without end": (now("stage", until=float("inf")), "inf should be int"),
    "a negative sample": (now("stage", n_rows=-1), "-1 should be int"),
    "norms in words": (now("stage", norms=[["a", "b"]]), "'a' should be float"),
    "norms of another shape": (now("stage", norms=[[1.0]]), "ValueError"),
    "an unknown entry of a stage": (now("stage", code=1), "TypeError.*code"),
    "negative visits": (now("visits", rows=-3), "-3 should be int"),
    "unknown visits": (now("visits", pages=3), "KeyError.*pages"),
    "an iteration in words": (now("state", iteration="3"), "'3' should be int"),
    "a step of NaN": (now("state", step_length=float("nan")), "nan should be float"),
    "a cost in words": (now("state", cost="low"), "'low' should be float"),
    "costs in words": (now("state", costs=["low"]), "'low' should be float"),
    "infinite costs": (now("state", costs=[float("inf")]), "inf should be float"),
    "terms in a list": (now("state", terms=["decay"]), "AttributeError"),
    "a term in words": (now("state", terms={"decay": "low"}), "'low' should be float"),
    "curvatures too few": (now("state", curvatures=[]), r"'state/s' has shape \(\d, 22\), not \(0"),
    "no means": (now("state", means=[]), "no array 'state/mean/activations'"),
    "an unknown end": (now("state", status="OWNED"), "KeyError.*OWNED"),
    "an absurd layer in training": (now("cost", n_hidden=10**15), r"not \(\d, 9000000000000004\)"),
    "a negative seed": (lambda v: v.update(seed=-1), "-1 should be int"),
    "a seed in words": (lambda v: v.update(seed="x"), "'x' should be int"),
    "runs in words": (lambda v: v.update(runs="runs"), "ValueError"),
    "data in a number": (lambda v: v.update(data=3), "TypeError"),
    "no data": (lambda v: v.update(data={}), "KeyError.*n_features"),
    "data of another size": (lambda v: v["data"].update(n_features=7), "other sizes than they"),
    "other layers than asked for": (
        lambda v: v["settings"].update(hidden_layer_sizes=[5, 2]),
        "other sizes than they should",
    ),
    "no settings": (lambda v: v.pop("settings"), "KeyError.*settings"),
    "settings in a list": (lambda v: v.update(settings=[1]), "TypeError"),
    "a past without a present": (lambda v: v.update(now=None), "history is not of these"),
    "a number for the present": (lambda v: v.update(now=3), "TypeError"),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [*OF_LAYERS.values(), *OF_A_CHECKPOINT.values()],
    ids=[*OF_LAYERS, *OF_A_CHECKPOINT],
)
def test_a_checkpoint_of_other_values_is_refused(run, change, message):
    values(change)(run)
    assert_refused(CheckpointError, message, read_checkpoint, RUN)


def test_a_long_history_of_nothing_is_refused(either):
    path, error, load = either
    values(lambda v: v.update(history=[]))(path)
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**9, 1]}}
    metadata(path / "history/zarr.json", shape=[10**9, 0], chunk_grid=grid)
    group = zarr.open_group(path, mode="r+")
    marker = group.attrs["stackedae"]
    marker["arrays"]["history"] = zlib.crc32(b"")
    group.attrs["stackedae"] = marker
    assert_refused(error, "the history has the columns", load)


def test_a_model_does_not_say_where_to_write(model):
    values(lambda v: v["params"].update(checkpoint="/etc/run.zarr"))(model)
    assert StackedAutoEncoder.load(model).checkpoint is None


# --- stores -----------------------------------------------------------------------------------


def test_an_archive_is_no_model(model):
    shutil.make_archive("model", "zip", model)
    archive = zarr.storage.ZipStore("model.zip")
    for store, message in (
        ("model.zip", "is a file, not a model store"),
        (Path("model.zip"), "is a file, not a model store"),
        (archive, "is an archive; unpack it"),
        (zarr.storage.StorePath(archive, ""), "is an archive; unpack it"),
        ("zip://::model.zip", "is an archive; unpack it"),
    ):
        assert_refused(StoreError, message, StackedAutoEncoder.load, store)


def test_an_archive_is_no_checkpoint(run):
    shutil.make_archive("run", "zip", RUN)
    assert_refused(StoreError, "is a file, not a checkpoint store", read_checkpoint, "run.zip")
    archive = zarr.storage.ZipStore("run.zip")
    assert_refused(StoreError, "is an archive; unpack it", read_checkpoint, archive)


def test_a_folder_is_looked_at_whatever_it_is_called(model):
    a_link(model)
    store = zarr.storage.LocalStore(model)
    for name in (store, zarr.storage.StorePath(store), f"file://{model.absolute()}"):
        assert_refused(StoreError, LINKED, StackedAutoEncoder.load, name)


@pytest.mark.parametrize("name", ["a bomb", "a codec of nobody", "NaN", "much JSON"])
def test_other_stores_are_read_with_as_much_care(model, name):
    harm, message = FILES[name]
    harm(model)
    files = (path for path in model.rglob("*") if path.is_file())
    content = {
        str(path.relative_to(model)): zarr.core.buffer.cpu.Buffer.from_bytes(path.read_bytes())
        for path in files
    }
    store = zarr.storage.MemoryStore(content)
    with pytest.raises(StoreError, match=message):
        StackedAutoEncoder.load(store)


def test_each_kind_of_store_is_told_from_the_others(model, run):
    extract_patches(np.zeros((9, 9)), (2, 2), 3, store="patches.zarr")
    for load, path, message in (
        (StackedAutoEncoder.load, RUN, "this is a checkpoint store, not a model store"),
        (StackedAutoEncoder.load, NEWEST, "this is a progress store, not a model store"),
        (StackedAutoEncoder.load, "patches.zarr", "this is a patches store, not a model store"),
        (read_checkpoint, MODEL, "this is a model store, not a checkpoint store"),
        (read_checkpoint, NEWEST, "this is a progress store, not a checkpoint store"),
        (read_checkpoint, "patches.zarr", "this is a patches store, not a checkpoint store"),
    ):
        assert_refused(StoreError, message, load, path)
    sae = StackedAutoEncoder(**SETTINGS, checkpoint=MODEL)
    assert_refused(StoreError, "this is a model store", sae.fit, np.ones((60, 6)))


def test_a_model_is_no_generation_of_a_checkpoint(model, run):
    shutil.rmtree(run)
    shutil.copytree(model, run)
    assert_refused(CheckpointError, "this is a model store", read_checkpoint, RUN)


# --- at random --------------------------------------------------------------------------------


@st.composite
def harms(draw):
    """What to do to some bytes of some file."""
    which, where = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    how = draw(st.sampled_from(["flip", "insert", "delete", "truncate"]))
    added = draw(st.binary(min_size=1, max_size=9))
    bit, length = draw(st.integers(0, 7)), draw(st.integers(1, 9))

    def harm(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[int(which * (len(files) - 1))]
        content = bytearray(path.read_bytes())
        at = int(where * (len(content) - 1))
        if how == "flip":
            content[at] ^= 1 << bit
        elif how == "insert":
            content[at:at] = added
        else:
            del content[at : None if how == "truncate" else at + length]
        path.write_bytes(content)

    return harm


few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(harm=harms())
def test_random_harm_to_a_model_is_refused_or_does_nothing(sound, harm):
    shutil.rmtree(MODEL, ignore_errors=True)
    shutil.copytree(sound / MODEL, MODEL)
    harm(MODEL)
    try:
        again = StackedAutoEncoder.load(MODEL)
    except StoreError:
        return
    assert_same(again, StackedAutoEncoder.load(sound / MODEL))


def bits(read):
    _, progress = read
    state = progress.state
    means = state.evaluation.means.values()
    vectors = [state.params, state.evaluation.gradient, *means]
    vectors += [vector for pair in state.pairs for vector in pair[:2]]
    vectors += [layer.params for layer in progress.layers]
    return repr(read), [vector.tobytes() for vector in vectors]


@few
@given(harm=harms())
def test_random_harm_to_a_checkpoint_is_refused_or_does_nothing(sound, harm):
    shutil.rmtree(RUN, ignore_errors=True)
    shutil.copytree(sound / RUN, RUN)
    shutil.rmtree(OLDER)  # which is in this checkpoint from before the second layer
    harm(RUN)
    try:
        again = bits(read_checkpoint(RUN))
    except (StoreError, CheckpointError):
        return
    assert again == bits(read_checkpoint(sound / RUN))


def test_the_generation_before_a_damaged_one_is_read(sound):
    shutil.copytree(sound / RUN, RUN)
    a_pickling_codec(NEWEST)
    _, older = read_checkpoint(RUN)
    _, newest = read_checkpoint(sound / RUN)
    assert older.history == newest.history[:-1]


# --- memory -----------------------------------------------------------------------------------

GREEDY = """
import resource
from stackedae import StackedAutoEncoder
from stackedae.errors import StoreError

resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
StackedAutoEncoder.load("sound.zarr")
before = peak()
try:
    StackedAutoEncoder.load("model.zarr")
except StoreError:
    print(peak() - before)
"""


def json_without_end(path):
    """Fill the metadata with what takes most memory, and fail after it was read."""
    much = "[" + "{}," * ((MOST_JSON_BYTES - 50_000) // 3) + "{}]"
    group = '{"zarr_format": 3, "node_type": "group", "attributes": {"a": %s}}'
    (path / "layers/zarr.json").write_text(group % much)
    (path / "layers/0/b1/c/0").unlink()


@pytest.mark.parametrize(
    "greed",
    [sized(10**12), FILES["a bomb"][0], json_without_end],
    ids=["an absurd size", "a bomb", "JSON"],
)
def test_a_hostile_model_takes_no_memory(sound, model, greed):
    shutil.copytree(sound / MODEL, "sound.zarr")
    greed(model)
    taken = subprocess.check_output([sys.executable, "-c", GREEDY])
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    assert 1024 * int(taken) < 10 * size + 100e6


def test_what_nobody_could_read_is_not_written(model):
    sae = StackedAutoEncoder.load(model)
    sae._info = {"words": "x" * 3 * 2**20}
    with pytest.raises(StoreError, match="bytes of JSON are too many for a model"):
        sae.save("other.zarr")
    assert not Path("other.zarr").exists()
