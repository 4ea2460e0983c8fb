"""Mutated files of every kind that is read: nothing but the documented errors, seeded.

NAM_EDU_FUZZ_EXAMPLES sets how many of each kind (default: 300).
"""

import gzip
import io
import json
import os
import pickle
import random
import resource
import time
import zipfile

import numpy as np
import paddle
import pytest
from helpers import random_split

from nam_edu.checkpoint import CheckpointError, load_weights, save_weights
from nam_edu.data import Archive, ArchiveError, read_archive, write_archive
from nam_edu.training import TrainingError, fit, load_network, open_run, recipe

EXAMPLES = int(os.environ.get("NAM_EDU_FUZZ_EXAMPLES", "300"))
TINY = recipe("ci", width=1, batch_size=32, train_images=32, validation=32, epochs=1)


def mutated(data, rng):
    """A copy of some bytes with one to four changes: bits, pieces cut out, doubled or noise,
    numbers made huge, the end cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 5:
            data[at : at + length] = rng.choice((b"\xff", b"9", b"\x00")) * length
        else:
            del data[at:]
    return bytes(data)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One small file of each kind, and what reads it: name -> (bytes, read(path), its error)."""
    folder = tmp_path_factory.mktemp("seeds")
    train, test = random_split(64, 0), random_split(8, 1)
    archive = Archive(train, test, train.fine_names, train.coarse_names)
    small = Archive(
        train.take(slice(0, 2)), test.take(slice(0, 2)), train.fine_names, train.coarse_names
    )
    run = fit(TINY, archive, folder / "run", progress=False)
    network = paddle.nn.Linear(3, 2)
    save_weights(network, folder / "weights.npz")
    with open(folder / "weights.pdparams", "wb") as file:
        pickle.dump({n: t.numpy() for n, t in network.state_dict().items()}, file, protocol=2)
    weights = (CheckpointError, lambda path: load_weights(network, path))
    return {
        "archive": (
            write_archive(folder / "a.tar.gz", small).read_bytes(),
            ArchiveError,
            read_archive,
        ),
        "weights.npz": ((folder / "weights.npz").read_bytes(), *weights),
        "weights.pdparams": ((folder / "weights.pdparams").read_bytes(), *weights),
        "best.npz": ((run.folder / "best.npz").read_bytes(), CheckpointError, load_network),
        "last.npz": (
            (run.folder / "last.npz").read_bytes(),
            TrainingError,
            lambda path: open_run(path.parent),
        ),
        "run.json": (
            (run.folder / "run.json").read_bytes(),
            TrainingError,
            lambda path: open_run(path.parent),
        ),
        "run": run.folder,
    }


def deeper(name, data, rng):
    """A mutation inside of a container whose checksums would catch one outside."""
    if name == "archive":
        return gzip.compress(mutated(gzip.decompress(data), rng), 1)
    if not name.endswith(".npz"):
        return mutated(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.namelist()
        chosen = rng.choice([*members, "meta.npy", "meta.npy"])
        for member in members:
            content = old.read(member)
            if member == chosen:
                content = mutated(content, rng)
            new.writestr(member, content)
    return out.getvalue()


@pytest.mark.parametrize(
    "name", ["archive", "weights.npz", "weights.pdparams", "best.npz", "last.npz", "run.json"]
)
def test_mutated(name, files, tmp_path, capsys):
    data, error, read = files[name]
    folder = tmp_path / "run"
    folder.mkdir()
    for other in files["run"].iterdir():
        if other.is_file() and other.name not in ("previous.npz", "lock"):
            (folder / other.name).write_bytes(other.read_bytes())
    path = (
        folder / name
        if name in ("last.npz", "run.json")
        else tmp_path / name.replace("archive", "a.tar.gz")
    )
    rng, refused, slowest = random.Random(name), 0, 0.0
    for i in range(EXAMPLES):
        changed = deeper(name, data, rng) if i % 2 else mutated(data, rng)
        path.write_bytes(changed)
        started = time.perf_counter()
        try:
            read(path)
        except error as refusal:
            refused += 1
            assert str(refusal)
        slowest = max(slowest, time.perf_counter() - started)
    capsys.readouterr()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        print(
            f"\n{name}: {EXAMPLES} mutated, {refused} refused, slowest {slowest:.2f} s, "
            f"peak of the process {peak:.0f} MiB"
        )
    assert refused > EXAMPLES / 4 and slowest < 5 and peak < 4096


def test_a_recipe_from_json_with_wrong_types(tmp_path, files):
    """Every field with values of every wrong kind."""
    about = json.loads((files["run"] / "run.json").read_text())
    (tmp_path / "last.npz").write_bytes((files["run"] / "last.npz").read_bytes())
    for field in about["recipe"]:
        for value in (
            None,
            True,
            "x",
            [],
            {},
            -1,
            1e400,
            [1, 2, 3],
            ["a", "b", "c"],
            [[1]],
            10**30,
            np.nan,
        ):
            changed = {**about, "recipe": {**about["recipe"], field: value}}
            (tmp_path / "run.json").write_text(json.dumps(changed))
            try:
                open_run(tmp_path)
            except TrainingError as error:
                assert str(error)
