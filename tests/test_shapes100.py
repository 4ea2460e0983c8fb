"""The generated data set: the same everywhere, evenly labelled, legible, and not too easy."""

import hashlib
import math

import numpy as np
import pytest

from nam_edu.machinery import shapes100
from nam_edu.data import read_archive
from nam_edu.machinery.errors import NamEduError
from nam_edu.machinery.shapes100 import (
    SHAPES,
    TEXTURES,
    cache_folder,
    coarse_names,
    draw,
    fine_names,
    load_shapes100,
    make_shapes100,
)

# The bytes of draw(200), seed 0. A change of the drawing changes them: raise VERSION then, and put
# the new value here. NumPy 1.26 and 2.4 gave the same.
SHA256 = "32835ad681b3cb97225426dc2584b4d1ed3208b80248cbc327e891c73c4a5b38"


def digest(arrays):
    return hashlib.sha256(
        b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)
    ).hexdigest()


@pytest.fixture(scope="module")
def sample():
    return draw(1000)


@pytest.fixture(scope="module")
def painted():
    """Brightness (n, 32, 32) in 0-255 and the figure's share of each pixel, five of each class."""
    rng = np.random.Generator(np.random.PCG64(3))
    fine = np.tile(np.arange(100), 5)
    images, figure = shapes100._paint(fine, rng.random)
    return fine, shapes100._luma(images), figure


def centred(fine):
    """The figure of a class with every random number 1/2: radius 12 pixels, centred, upright."""
    return shapes100._paint(np.array([fine]), lambda shape: np.full(shape, 0.5))[1][0]


# ------------------------------------------------------------------------------ reproducibility


def test_the_bytes_are_those_on_record():
    assert digest(draw(200, seed=0)) == SHA256


def test_the_same_arguments_give_the_same_images_and_others_do_not():
    first = digest(draw(40, 7, split="test"))
    assert digest(draw(40, 7, split="test")) == first
    assert digest(draw(40, 8, split="test")) != first
    assert digest(draw(40, 7, split="train")) != first


def test_how_many_are_drawn_together_does_not_matter(monkeypatch):
    expected = digest(draw(50))
    monkeypatch.setattr(shapes100, "CHUNK", 7)
    assert digest(draw(50)) == expected


def test_drawing_leaves_numpys_global_generator_alone():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    draw(5)
    assert np.random.random() == expected


def test_no_image_is_in_both_splits(sample):
    train = {image.tobytes() for image in sample[0]}
    test = {image.tobytes() for image in draw(1000, split="test")[0]}
    assert len(train) == len(test) == 1000
    assert not train & test


# --------------------------------------------------------------------------------------- labels


def test_shapes_and_types(sample):
    images, fine, coarse = sample
    assert images.shape == (1000, 3, 32, 32) and images.dtype == np.uint8
    assert fine.shape == coarse.shape == (1000,)
    assert fine.dtype == coarse.dtype == np.int64
    assert images.flags.c_contiguous


def test_names():
    assert len(SHAPES) == len(set(SHAPES)) == 20
    assert len(TEXTURES) == len(set(TEXTURES)) == 5
    assert len(fine_names()) == len(set(fine_names())) == 100
    assert coarse_names() == list(SHAPES)


def test_a_fine_label_is_five_times_the_shape_plus_the_texture(sample):
    _, fine, coarse = sample
    assert np.array_equal(coarse, fine // 5)
    label = SHAPES.index("star") * 5 + TEXTURES.index("striped")
    assert fine_names()[label] == "striped star"


@pytest.mark.parametrize("n", [1, 20, 99, 100, 250])
def test_classes_are_as_even_as_n_allows(n):
    _, fine, coarse = draw(n)
    for labels, classes in ((fine, 100), (coarse, 20)):
        counts = np.bincount(labels, minlength=classes)
        assert len(counts) == classes
        assert counts.max() - counts.min() <= 1


def test_the_order_is_shuffled(sample):
    _, fine, _ = sample
    assert not np.array_equal(fine[:100], np.sort(fine[:100]))
    assert not np.array_equal(fine[:100], fine[100:200])


# ------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "shape, area",
    [  # from school geometry, in units of the radius squared
        ("circle", math.pi * 0.88**2),
        ("ring", math.pi * (0.95**2 - 0.45**2)),
        ("ellipse", math.pi * 0.5),
        ("dome", math.pi / 2),
        ("square", 1.56**2),
        ("frame", 1.7**2 - 0.74**2),
        ("triangle", 1.7),
        ("cross", 4 * 0.6 * 0.95 - 0.6**2),
        ("hourglass", 0.95 * (1.6 + 0.28)),
        ("tee", 1.84 * 0.57 + 0.6 * 1.3),
    ],
)
def test_figures_have_their_area(shape, area):
    # 5 %: straight edges fall between the 3 x 3 points on which a pixel's share is counted.
    assert centred(5 * SHAPES.index(shape)).sum() == pytest.approx(area * 12**2, rel=0.05)


def test_the_arrow_points_up_and_the_fish_swims_left():
    arrow, fish = centred(5 * SHAPES.index("arrow")), centred(5 * SHAPES.index("fish"))
    assert arrow[5:15].sum(1).max() > 2 * arrow[18:26].sum(1).max()
    assert fish[:, 15].sum() > fish[:, 20].sum() < fish[:, 26].sum()


def test_no_silhouette_becomes_another_when_flipped_and_turned():
    at = (np.arange(96) + 0.5) * (2.8 / 96) - 1.4
    table = shapes100._table()

    def views(mirror, angle):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x, y = at[None, :] * mirror, at[:, None]
        column, row = (
            np.floor((v + 1.1) * (256 / 2.2)).clip(0, 255).astype(int)
            for v in (cos * x + sin * y, cos * y - sin * x)
        )
        return table[:, row, column].reshape(20, -1).astype(np.float32)  # the edge cells are empty

    upright = views(1, 0)
    for mirror in (1, -1):
        # Two images may be turned by 20 degrees and 15 more while training, each its own way.
        for angle in range(-70, 71, 10):
            view = views(mirror, angle)
            both = view @ upright.T
            either = view.sum(1)[:, None] + upright.sum(1) - both
            overlap = both / either
            np.fill_diagonal(overlap, 0)
            i, j = np.unravel_index(overlap.argmax(), overlap.shape)
            assert overlap[i, j] < 0.9, f"{SHAPES[i]} looks like {SHAPES[j]}"


def test_every_figure_stands_out_from_its_background(painted):
    _, luma, figure = painted
    for brightness, share in zip(luma, figure):
        ground = np.median(brightness[share == 0])
        inner = brightness[share == 1]
        # Bands of brightness are at least 0.27 apart; slope, blotches and noise blur them.
        assert abs(np.median(inner) - ground) > 40
        # All of the figure is on the same side of the background, but for noise.
        side = np.sign(np.median(inner) - ground)
        assert np.mean((inner - ground) * side > 20) > 0.95


def test_every_figure_is_in_the_image_and_has_a_fair_size(painted):
    _, _, figure = painted
    area = figure.sum((1, 2))  # in pixels
    assert 80 < area.min() and area.max() < 600
    border = np.concatenate([figure[:, 0], figure[:, -1], figure[:, :, 0], figure[:, :, -1]], 1)
    # Stretched and turned, a corner may leave the image.
    assert np.all(border.sum(1) < 0.1 * area)


def test_a_plain_figure_has_one_colour_and_the_others_two(painted):
    fine, luma, figure = painted
    spread = np.array([brightness[share == 1].std() for brightness, share in zip(luma, figure)])
    assert spread[fine % 5 == 0].max() < 7 < 10 < spread[fine % 5 != 0].min()


def test_a_shaded_figure_is_brighter_above(painted):
    fine, luma, figure = painted
    for brightness, share in zip(luma[fine % 5 == 4], figure[fine % 5 == 4]):
        rows, _ = np.nonzero(share == 1)
        assert np.corrcoef(rows, brightness[share == 1])[0, 1] < -0.5


def test_a_linear_classifier_does_not_learn_it():
    def pixels(split):
        return split[0].reshape(len(split[0]), -1) / 255.0 - 0.5

    train, test = draw(2000), draw(500, split="test")
    x = pixels(train)
    # Ridge regression on one-hot labels, solved in the space of the images.
    weights = x.T @ np.linalg.solve(x @ x.T + 1000 * np.eye(len(x)), np.eye(100)[train[1]])
    accuracy = np.mean((pixels(test) @ weights).argmax(1) == test[1])
    assert accuracy < 0.12


# ------------------------------------------------------------------------------------- archives


def test_an_archive_holds_what_was_drawn(tmp_path):
    path = make_shapes100(tmp_path / "s.tar.gz", train=150, test=100, seed=4)
    archive = read_archive(path)
    assert list(archive.fine_names) == fine_names()
    assert list(archive.coarse_names) == coarse_names()
    for split, n, name in ((archive.train, 150, "train"), (archive.test, 100, "test")):
        for got, expected in zip((split.images, split.fine, split.coarse), draw(n, 4, split=name)):
            assert np.array_equal(got, expected)


def test_an_archive_of_a_few_images_knows_all_superclasses(tmp_path):
    archive = read_archive(make_shapes100(tmp_path / "s.tar.gz", train=7, test=5))
    assert len(set(archive.train.fine) | set(archive.test.fine)) < 13
    for split in (archive.train, archive.test.take([0])):
        for fine, coarse in enumerate(split.superclass_of):
            assert split.fine_names[fine].split()[1] == split.coarse_names[coarse]


def test_an_archive_has_the_same_bytes_each_time(tmp_path):
    first = make_shapes100(tmp_path / "a.tar.gz", train=20, test=20).read_bytes()
    assert make_shapes100(tmp_path / "b.tar.gz", train=20, test=20).read_bytes() == first


@pytest.fixture
def small(monkeypatch):
    """load_shapes100 with 40 and 20 images; a list of the paths that were drawn."""
    monkeypatch.setattr(shapes100, "TRAIN", 40)
    monkeypatch.setattr(shapes100, "TEST", 20)
    made = []

    def make(path, **sizes):
        made.append(path)
        return make_shapes100(path, **sizes)

    monkeypatch.setattr(shapes100, "make_shapes100", make)
    return made


def test_the_cached_archive_is_drawn_once(small, tmp_path):
    first, second = load_shapes100(tmp_path / "new"), load_shapes100(tmp_path / "new")
    assert len(small) == 1
    assert small[0].name == f"shapes100-v{shapes100.VERSION}-40-20-seed0.tar.gz"
    assert (len(first.train), len(first.test)) == (40, 20)
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.images, draw(20, split="test")[0])


@pytest.mark.parametrize("damage", ["truncated", "no archive", "another archive"])
def test_a_damaged_cached_file_is_drawn_anew(small, tmp_path, damage):
    expected = load_shapes100(tmp_path).train.images
    path = small[0]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no archive":
        path.write_bytes(b"no archive")
    else:
        make_shapes100(path, train=20, test=20)
    assert np.array_equal(load_shapes100(tmp_path).train.images, expected)
    assert len(small) == 2


def test_the_cache_folder_is_named_by_the_environment(small, tmp_path, monkeypatch):
    monkeypatch.setenv("NAM_EDU_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    load_shapes100()
    assert small[0].parent == tmp_path / "mine"


def test_a_cache_that_cannot_be_written_to_gives_way_to_the_temporary_folder(
    small, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")  # a folder cannot be made inside a file, even by root
    monkeypatch.setenv("NAM_EDU_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(shapes100.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache_folder() == tmp_path
    assert len(load_shapes100().train) == 40


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: draw(0), "n must be a whole number of at least 1, not 0"),
        (lambda: draw(2.0), "n must be a whole number of at least 1, not 2.0"),
        (lambda: draw(True), "n must be a whole number"),
        (lambda: draw(1, -1), "seed must be a whole number of at least 0, not -1"),
        (lambda: draw(1, split="val"), "unknown split 'val': choose one of train, test"),
        (lambda: make_shapes100("x", train=0), "train must be a whole number of at least 1, not 0"),
        (
            lambda: make_shapes100("x", test="2"),
            "test must be a whole number of at least 1, not '2'",
        ),
        (lambda: make_shapes100("x", seed=None), "seed must be a whole number of at least 0"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_cache_given_by_name_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to: give another one with cache="):
        load_shapes100(tmp_path / "file")


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    """The file that was asked for, not the temporary one; and before anything is drawn."""
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "shapes.tar.gz"
    monkeypatch.setattr(shapes100, "draw", None)
    with pytest.raises(NamEduError) as error:
        make_shapes100(target)
    assert f"{target} cannot be written" in str(error.value) and "--out" in str(error.value)
    with pytest.raises(NamEduError, match="is a folder"):
        make_shapes100(tmp_path)


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    def full(path, archive):
        raise OSError(28, "No space left on device", str(tmp_path / ".x.tar.gz.k2j3"))

    monkeypatch.setattr(shapes100, "write_archive", full)
    with pytest.raises(NamEduError) as error:
        make_shapes100(tmp_path / "x.tar.gz", train=1, test=1)
    assert "x.tar.gz cannot be written (No space left on device)" in str(error.value)
    assert "k2j3" not in str(error.value)
