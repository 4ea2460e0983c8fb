"""Archives: what is found, what is read, and one clear sentence for whatever is wrong."""

import gzip
import io
import os
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import random_split

from nam_edu import data
from nam_edu.data import (
    CIFAR100_MEAN,
    CIFAR100_STD,
    Archive,
    ArchiveError,
    Batches,
    Split,
    channel_statistics,
    download_cifar100,
    locate_cifar100,
    read_archive,
    write_archive,
)
from nam_edu.machinery import cifar_archive
from nam_edu.machinery.files import file_md5


def content(n=6):
    """What the member `train` of an archive unpickles to."""
    rng = np.random.default_rng(0)
    fine = [int(v) for v in range(n)]
    return {
        b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        b"fine_labels": fine,
        b"coarse_labels": [v // 5 for v in fine],
    }


META = {
    b"fine_label_names": [b"fine %d" % i for i in range(100)],
    b"coarse_label_names": [b"coarse %d" % i for i in range(20)],
}


def make(path, members, protocol=2):
    """A gzip tar of pickled (or raw) members, written by Python's own modules."""
    with tarfile.open(path, "w:gz") as tar:
        for name, value in members.items():
            blob = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return path


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


@pytest.mark.parametrize("protocol", range(6))
def test_reads_what_python_pickled(tmp_path, protocol):
    train, test = content(), content(3)
    archive = read_archive(
        make(tmp_path / "a.tar.gz", {"meta": META, "test": test, "train": train}, protocol)
    )
    np.testing.assert_array_equal(archive.train.images.reshape(6, -1), train[b"data"])
    assert archive.train.images.shape == (6, 3, 32, 32)
    assert archive.train.fine.tolist() == train[b"fine_labels"]
    assert archive.test.coarse.tolist() == test[b"coarse_labels"]
    assert archive.fine_names[7] == "fine 7" and archive.coarse_names[-1] == "coarse 19"


GOOD = {"meta": META, "test": content(3), "train": content()}
BAD = {
    "no train": (without(GOOD, "train"), "has no train"),
    "no meta": (without(GOOD, "meta"), "has no meta"),
    "CIFAR-10": ({"data_batch_1": {b"data": 1}, "batches.meta": {}}, "CIFAR-10"),
    "another tar": ({"readme": b"hello"}, "not CIFAR-100"),
    "no fine labels": ({**GOOD, "train": without(content(), b"fine_labels")}, "no fine_labels"),
    "no data": ({**GOOD, "test": without(content(), b"data")}, "'test' has no data"),
    "no names": ({**GOOD, "meta": without(META, b"coarse_label_names")}, "20 names"),
    "names twice": ({**GOOD, "meta": {**META, b"fine_label_names": [b"x"] * 100}}, "different"),
    "label 100": (
        {**GOOD, "train": {**content(), b"fine_labels": [0, 1, 2, 3, 4, 100]}},
        "100 at image 5",
    ),
    "label -1": (
        {**GOOD, "train": {**content(), b"coarse_labels": [-1, 0, 0, 0, 0, 1]}},
        "-1 at image 0",
    ),
    "label 1.5": (
        {**GOOD, "train": {**content(), b"fine_labels": [0, 1, 2, 3, 4, 1.5]}},
        "not a list of whole numbers",
    ),
    "fewer labels": ({**GOOD, "train": {**content(), b"fine_labels": [0, 1]}}, "6 images but 2"),
    "float data": ({**GOOD, "train": {**content(), b"data": np.zeros((6, 3072))}}, "uint8"),
    "other size": (
        {**GOOD, "train": {**content(), b"data": np.zeros((6, 3000), "uint8")}},
        r"\(6, 3000\)",
    ),
    "no image": (
        {
            **GOOD,
            "train": {
                b"data": np.zeros((0, 3072), "uint8"),
                b"fine_labels": [],
                b"coarse_labels": [],
            },
        },
        "no image",
    ),
    "a list": ({**GOOD, "train": [1, 2]}, "no dictionary"),
    "no pickle": ({**GOOD, "train": b"hello"}, "no plain data"),
    "two superclasses": (
        {**GOOD, "test": {**content(3), b"coarse_labels": [1, 0, 0]}},
        "two different superclasses",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives(tmp_path, case):
    members, message = BAD[case]
    path = make(tmp_path / "a.tar.gz", members)
    with pytest.raises(ArchiveError, match=message) as caught:
        read_archive(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_an_archive_that_would_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    path = make(tmp_path / "a.tar.gz", {**GOOD, "train": {**content(), b"data": Attack()}})
    with pytest.raises(ArchiveError, match="mkdir"):
        read_archive(path)
    assert not (tmp_path / "it ran").exists()


def test_files_that_are_no_archive(tmp_path):
    good = make(tmp_path / "good.tar.gz", GOOD).read_bytes()
    for name, blob, message in (
        ("empty", b"", "truncated or damaged|not a gzip"),
        ("text", b"hello world", "not a gzip file"),
        ("cut", good[: len(good) // 2], "truncated or damaged"),
        ("cut at the end", good[:-3], "truncated or damaged"),
        ("gzipped text", gzip.compress(b"hello" * 999), "damaged|no train"),
        ("flipped", good[:300] + bytes([good[300] ^ 255]) + good[301:], "truncated or damaged"),
    ):
        path = tmp_path / name
        path.write_bytes(blob)
        with pytest.raises(ArchiveError, match=message):
            read_archive(path)
    with pytest.raises(ArchiveError, match="there is no file"):
        read_archive(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="is a folder"):
        read_archive(tmp_path)


def test_a_gzip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_archive, "MAX_UNPACKED", 1 << 20)
    path = make(tmp_path / "a.tar.gz", {"junk": bytes(5 << 20), **GOOD})
    with pytest.raises(ArchiveError, match="unpacks to more than 1 MiB"):
        read_archive(path)


def test_a_link_for_a_member(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-100-python/train")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ArchiveError, match="not a plain file"):
        read_archive(path)


def test_written_archives(tmp_path, archive):
    path = write_archive(tmp_path / "a.tar.gz", archive)
    again = read_archive(path)
    for split, other in ((archive.train, again.train), (archive.test, again.test)):
        np.testing.assert_array_equal(split.images, other.images)
        np.testing.assert_array_equal(split.fine, other.fine)
        np.testing.assert_array_equal(split.coarse, other.coarse)
    assert again.fine_names == archive.fine_names
    assert file_md5(path) == file_md5(write_archive(tmp_path / "b.tar.gz", archive))
    assert os.listdir(tmp_path) in (["a.tar.gz", "b.tar.gz"], ["b.tar.gz", "a.tar.gz"])


def test_paddle_reads_what_we_write(tmp_path, archive):
    from paddle.vision.datasets import Cifar100

    path = write_archive(tmp_path / "a.tar.gz", archive)
    theirs = Cifar100(str(path), mode="test", backend="cv2")
    assert len(theirs) == len(archive.test)
    image, label = theirs[17]
    np.testing.assert_array_equal(image.transpose(2, 0, 1), archive.test.images[17])
    assert label == archive.test.fine[17]


def test_statistics_of_channels():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)


# -------------------------------------------------------------------------------------- find


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A home and a working folder in which there is no CIFAR-100."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("NAM_EDU_CIFAR100", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_order_of_the_search(nowhere, monkeypatch):
    assert locate_cifar100() is None
    cache = nowhere / "home/.cache/paddle/dataset/cifar/cifar-100-python.tar.gz"
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert locate_cifar100() == cache
    mount = nowhere / "data/data76994/cifar-100-python.tar.gz"
    mount.parent.mkdir(parents=True)
    mount.touch()
    assert locate_cifar100().resolve() == mount.resolve()
    named = nowhere / "named.tar.gz"
    named.touch()
    monkeypatch.setenv("NAM_EDU_CIFAR100", str(named))
    assert locate_cifar100() == named
    given = nowhere / "given.tar.gz"
    given.touch()
    assert locate_cifar100(given) == given


def test_a_named_path_that_is_not_there(nowhere, monkeypatch):
    with pytest.raises(ArchiveError, match="there is no file .*missing"):
        locate_cifar100("missing.tar.gz")
    monkeypatch.setenv("NAM_EDU_CIFAR100", "missing.tar.gz")
    with pytest.raises(ArchiveError, match="NAM_EDU_CIFAR100 says missing.tar.gz"):
        locate_cifar100()


# ---------------------------------------------------------------------------------- download


@pytest.fixture
def server(tmp_path):
    """A web server on this machine with the file `good`: (its address, its md5)."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "good").write_bytes(os.urandom(3_000_000))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", file_md5(folder / "good")
    web.shutdown()


def test_download(tmp_path, server, capfd):
    url, md5 = server
    path = download_cifar100(tmp_path / "cache", url=f"{url}/good", md5=md5)
    assert file_md5(path) == md5 and os.listdir(path.parent) == [path.name]
    assert "100%" in capfd.readouterr().err  # the progress bar
    stamp = path.stat().st_mtime_ns
    assert download_cifar100(tmp_path / "cache", url="http://127.0.0.1:9/", md5=md5) == path
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "file, md5, message",
    [("good", "0" * 32, "is not CIFAR-100"), ("bad", "0" * 32, "could not download")],
)
def test_a_download_that_fails_leaves_nothing(tmp_path, server, file, md5, message):
    with pytest.raises(ArchiveError, match=message):
        download_cifar100(tmp_path / "cache", url=f"{server[0]}/{file}", md5=md5)
    assert os.listdir(tmp_path / "cache") == []


# ---------------------------------------------------------------------------------- real data


def test_the_real_cifar100(cifar100):
    archive = read_archive(cifar100)
    assert len(archive.train) == 50_000 and len(archive.test) == 10_000
    assert (np.bincount(archive.train.fine) == 500).all()
    assert (np.bincount(archive.test.fine) == 100).all()
    assert archive.fine_names[0] == "apple" and archive.coarse_names[0] == "aquatic_mammals"
    mean, std = channel_statistics(archive.train.images)
    np.testing.assert_allclose(mean, data.CIFAR100_MEAN, atol=6e-5)
    np.testing.assert_allclose(std, data.CIFAR100_STD, atol=6e-5)


# ------------------------------------------------------- superclasses and streams of random numbers


def test_an_archive_knows_the_superclasses_of_both_splits(tmp_path):
    whole = random_split(100, 0)
    few, others = whole.take(slice(0, 30)), whole.take(slice(30, 60))
    made = [Split(s.images, s.fine, s.coarse, s.fine_names, s.coarse_names) for s in (few, others)]
    np.testing.assert_array_equal(whole.take([7]).superclass_of, np.arange(100) // 5)
    np.testing.assert_array_equal(
        made[0].superclass_of, np.where(np.arange(100) < 30, np.arange(100) // 5, -1)
    )
    built = Archive(*made, whole.fine_names, whole.coarse_names)
    write_archive(tmp_path / "a.tar.gz", built)
    for archive in (built, read_archive(tmp_path / "a.tar.gz")):
        for split in (archive.train, archive.test, archive.test.take([3])):
            np.testing.assert_array_equal(
                split.superclass_of, np.where(np.arange(100) < 60, np.arange(100) // 5, -1)
            )
            assert split.superclass_of.dtype == np.int64


def test_a_class_under_two_superclasses_is_refused():
    split = random_split(4, 0)
    names = split.fine_names, split.coarse_names
    with pytest.raises(ArchiveError, match="'fine 3' belongs to two different superclasses"):
        Split(split.images, np.array([3, 3, 0, 0]), np.array([1, 2, 0, 0]), *names)
    other = Split(split.images, split.fine, split.coarse + 1, *names)
    with pytest.raises(ArchiveError, match="'fine 0' belongs to two different superclasses"):
        Archive(split, other, *names)
    with pytest.raises(ArchiveError, match="'fine 0' belongs to two different superclasses"):
        Split(split.images, split.fine, split.coarse, *names, np.full(100, 7))


def test_superclasses_that_no_label_shows_are_written_and_read(tmp_path):
    whole = random_split(100, 0)
    few = Archive(
        whole.take(slice(0, 3)), whole.take(slice(2, 5)), whole.fine_names, whole.coarse_names
    )
    write_archive(tmp_path / "a.tar.gz", few)
    read = read_archive(tmp_path / "a.tar.gz")
    for split in (read.train, read.test, read.test.take([1])):
        np.testing.assert_array_equal(split.superclass_of, np.arange(100) // 5)


@pytest.mark.parametrize("table", [7, [0] * 99, [20] * 100, [-2] * 100, [True] * 100, ["a"] * 100])
def test_a_damaged_table_of_superclasses(table):
    from nam_edu.machinery.cifar_archive import _superclass_table

    with pytest.raises(ArchiveError, match="is not a list of 100 whole numbers from -1 to 19"):
        _superclass_table({"superclass_of": table})
    assert _superclass_table({}) is None


def test_no_two_streams_of_a_run_coincide(monkeypatch):
    """Order and augmentation of 120 epochs, and the cut of the training images."""
    made, real = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or real(seed))
    for seed in (0, 3):
        batches = Batches(
            random_split(12, 0), 2, (CIFAR100_MEAN, CIFAR100_STD), lambda images, rng: images, seed
        )
        made.clear()
        for batches.epoch in range(120):
            list(batches)
        states = {tuple(np.random.SeedSequence(s).generate_state(4)) for s in [*made, [seed, 100]]}
        assert len(states) == len(made) + 1 == 120 * (1 + 6) + 1
