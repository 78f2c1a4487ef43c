"""Harm at random to models and checkpoints: refused as they should be, or read as they were?

python benchmarks/fuzz.py [--minutes 10] [--seed 0]

Harm that goes round the checksums may give other values; what gives them must still work.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stackedae import StackedAutoEncoder
from stackedae.checkpoint import read_checkpoint
from stackedae.errors import CheckpointError, StoreError

BATCH = 200
LONGEST = 20
"""Seconds that one may take to read."""

INTERESTING = (
    *(0, -1, 1, 2, 3, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64),
    *(10**12, 10**15, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf")),
    *(None, True, [], {}, [[]], "", "0", "1e9", "../../x", "\0", "big", "float32", "float64", "🐟"),
)


class TooLongError(BaseException):
    """No `Exception`, which a reader might take for a fault of the file."""


def too_long(*_: Any) -> None:
    raise TooLongError


# --- harm: each takes a source of chance, and a folder; True if it goes round the checksums ------


def a_file(chance: random.Random, folder: Path, pattern: str = "*") -> Path:
    return chance.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))


def on_bytes(change: Callable[[random.Random, bytearray, int], None]) -> Callable[..., bool]:
    def harm(chance: random.Random, folder: Path) -> bool:
        path = a_file(chance, folder)
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            change(chance, content, chance.randrange(len(content) + 1))
        path.write_bytes(content)
        return False

    return harm


def flip(chance: random.Random, content: bytearray, at: int) -> None:
    if at < len(content):
        content[at] ^= 1 << chance.randrange(8)


def insert(chance: random.Random, content: bytearray, at: int) -> None:
    content[at:at] = chance.randbytes(chance.choice((1, 4, 1000)))


def delete(chance: random.Random, content: bytearray, at: int) -> None:
    del content[at : at + chance.choice((1, 4, 100))]


def truncate(chance: random.Random, content: bytearray, at: int) -> None:
    del content[at:]


def duplicate(chance: random.Random, content: bytearray, at: int) -> None:
    stretch = content[at : at + chance.choice((1, 8, 100))]
    content[at:at] = stretch * chance.choice((1, 1, 100, 10_000))


def remove(chance: random.Random, folder: Path) -> bool:
    path = a_file(chance, folder)
    if chance.random() < 0.5 and path.parent != folder:
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    return False


def swap(chance: random.Random, folder: Path) -> bool:
    """Exchange two files."""
    one, other = a_file(chance, folder), a_file(chance, folder)
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    return False


def chunk(chance: random.Random, folder: Path) -> bool:
    """Write other numbers, with their checksum."""
    path, root = a_file(chance, folder, "c/**/*"), root_of(folder)
    content = bytearray(path.read_bytes())
    value = chance.choice((0.0, -1.0, 3e38, np.nan, np.inf, 1e-45))
    new = np.array(value, chance.choice(("f4", "f8"))).tobytes()
    at = chance.randrange(0, len(content), 4)
    content[at : at + len(new)] = new
    path.write_bytes(content)
    document, name = json.loads(root.read_text()), str(path.relative_to(root.parent))
    document["attributes"]["stackedae"]["arrays"][name.split("/c/")[0]] = zlib.crc32(content)
    root.write_text(json.dumps(document))
    return True


def root_of(folder: Path) -> Path:
    """Return the file with the document."""
    return max(folder.rglob("zarr.json"), key=lambda path: path.stat().st_size)


def metadata(chance: random.Random, folder: Path) -> bool:
    """Change what is said of a group or an array."""
    return on_json(chance, a_file(chance, folder, "zarr.json"), lambda root: root)


def values(chance: random.Random, folder: Path) -> bool:
    """Change values of the document."""
    return on_json(
        chance, root_of(folder), lambda root: root["attributes"][min(root["attributes"])]
    )


def on_json(chance: random.Random, path: Path, part: Callable[[Any], Any]) -> bool:
    """Change JSON, and its checksum with it."""
    document = json.loads(path.read_text())
    for _ in range(chance.choice((1, 1, 2, 3))):
        change(chance, part(document))
    attributes = document.get("attributes")
    if isinstance(attributes, dict) and isinstance(attributes.get("stackedae"), dict):
        for kind in set(attributes) - {"stackedae"}:
            said = json.dumps(attributes[kind], sort_keys=True).encode()
            attributes["stackedae"]["crc32"] = zlib.crc32(said)
    path.write_text(json.dumps(document))
    return True


def change(chance: random.Random, node: Any) -> None:
    """Go down at random, and put something else there, or nothing, or the same twice."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = chance.choice(keys)
    if isinstance(node[key], (dict, list)) and node[key] and chance.random() < 0.9:
        change(chance, node[key])
    elif chance.random() < 0.1:
        del node[key]
    elif chance.random() < 0.1:
        node[key] = [node[key], node[key]]
    else:
        node[key] = chance.choice(INTERESTING)


HARM: dict[str, Callable[[random.Random, Path], bool]] = {
    **{each.__name__: on_bytes(each) for each in (flip, insert, delete, truncate, duplicate)},
    **{each.__name__: each for each in (remove, swap, chunk, metadata, values)},
}


# --- reading ------------------------------------------------------------------------------------


def model(folder: Path) -> Any:
    sae = StackedAutoEncoder.load(folder)
    bits = [(each.params.tobytes(), each.mean_activations.tobytes()) for each in sae.layers_]
    said = (sae.get_params(), sae.history_, sae.info, sae.n_features_in_, sae.sample_shape_)
    with np.errstate(all="ignore"):
        assert sae.transform(np.zeros((2, *sae.sample_shape_))).shape[0] == 2
    return bits, repr(said), repr([(each.cost, each.status) for each in sae.layers_])


def checkpoint(folder: Path) -> Any:
    read = read_checkpoint(folder)
    if read is None:
        return None
    state = read[1].state
    vectors = [each.params for each in read[1].layers]
    if state is not None and state.evaluation is not None:
        vectors += [state.params, state.evaluation.gradient]
        vectors += [vector for pair in state.pairs for vector in pair[:2]]
    return [vector.tobytes() for vector in vectors], repr(read)


READ: dict[str, Callable[[Path], Any]] = {"model": model, "checkpoint": checkpoint}


def prepare(folder: Path) -> None:
    """Write a model, and a checkpoint of the same fit with one generation."""
    settings = {"max_iter": 3, "tol": 0, "random_state": 3, "checkpoint_every": 1}
    sae = StackedAutoEncoder((4, 2), **settings, checkpoint=folder / "run")

    def copy(record: dict[str, Any]) -> None:
        if (record["layer"], record["iteration"]) == (1, 3):
            shutil.copytree(folder / "run", folder / "checkpoint")

    sae.fit(np.random.default_rng(0).random((60, 3, 2)), callback=copy).save(folder / "model")
    shutil.rmtree(min((folder / "checkpoint").glob("0*")))


def batch(folder: Path, seed: str, results: Any) -> None:
    """Do harm and read, again and again, and say what came of it."""
    logging.disable()
    signal.signal(signal.SIGALRM, too_long)
    sound = {kind: read(folder / kind) for kind, read in READ.items()}
    counts, largest, slowest, before = Counter(), 0, 0.0, peak()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(BATCH):
            chance = random.Random(f"{seed}/{number}")
            kind, how = chance.choice(list(READ)), chance.choice(list(HARM))
            harmed = Path(scratch, f"{number}")
            shutil.copytree(folder / kind, harmed)
            deliberate = HARM[how](chance, harmed)
            largest = max(largest, sum(p.stat().st_size for p in harmed.rglob("*") if p.is_file()))
            began = time.perf_counter()
            try:
                signal.alarm(LONGEST)
                read = READ[kind](harmed)
                outcome = "as it was" if read == sound[kind] else "other values"
                if read is None:  # a checkpoint without its only generation
                    outcome = "empty"
                assert deliberate or outcome != "other values", "which should have been noticed"
            except (StoreError, CheckpointError) as error:
                outcome = type(error).__name__
            except BaseException:
                results.put(f"{kind}, {how}, seed {seed}/{number}\n{traceback.format_exc()}")
                return
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - began)
            counts[kind, how, outcome] += 1
            shutil.rmtree(harmed)
    results.put((counts, peak() - before, largest, slowest))


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    """Print what became of all, and return 1 if anything became of one that should not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fork = multiprocessing.get_context("fork")
    counts, most, slowest, left = Counter(), 0, 0.0, -np.inf
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as scratch:
        # Each in a process of its own, as memory is measured by its peak.
        process = fork.Process(target=prepare, args=(Path(scratch),))
        process.start()
        process.join()
        number = 0
        while time.monotonic() < until:
            results = fork.SimpleQueue()
            seed = f"{arguments.seed}/{number}"
            process = fork.Process(target=batch, args=(Path(scratch), seed, results))
            process.start()
            process.join()
            result = f"batch {seed} died with {process.exitcode}"
            if not results.empty():
                result = results.get()
            if isinstance(result, str):
                print(result)
                return 1
            more, grown, largest, longest = result
            counts += more
            most, slowest = max(most, grown), max(slowest, longest)
            left = max(left, grown - 10 * largest - 100e6)
            number += 1
    report(counts)
    print(f"{counts.total()} read, the slowest in {slowest:.2f} s")
    print(f"memory grew by {most / 1e6:.0f} MB at most, {-left / 1e6:.0f} MB below what is allowed")
    return int(left > 0)


def report(counts: Counter[tuple[str, str, str]]) -> None:
    outcomes = sorted({outcome for _, _, outcome in counts})
    print(" " * 24 + "".join(f"{outcome:>18}" for outcome in outcomes))
    for kind, how in sorted({key[:2] for key in counts}):
        row = "".join(f"{counts[kind, how, outcome]:18}" for outcome in outcomes)
        print(f"{kind:12}{how:12}{row}")


if __name__ == "__main__":
    sys.exit(main())
