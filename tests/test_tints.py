"""The tinted images: what is in them, read off their pixels."""

import zlib

import numpy as np
import pytest
from experiments import protocol
from experiments import tints as control
from experiments.attention import RESULTS, read_rows

from nam_edu import findings
from nam_edu.machinery.errors import ArgumentError
from nam_edu.tints import FIGURE, SHAPES, draw, shape_masks, tint_archive


def test_the_same_seed_gives_the_same_bytes_everywhere():
    images, shapes, counts = draw(50, seed=3)
    assert zlib.crc32(images.tobytes()) == 2607503792
    assert (draw(50, seed=3)[0] == images).all() and (draw(50, seed=4)[0] != images).any()
    assert (images.shape, images.dtype) == ((50, 3, 32, 32), np.uint8)
    assert shapes.shape == (50, 3) and counts.shape == (50,)


def test_the_shapes_differ_and_are_their_own_mirror_images():
    masks = shape_masks()
    assert masks.shape == (len(SHAPES), FIGURE, FIGURE)
    assert (masks == masks[:, :, ::-1]).all()
    apart = [(a != b).sum() for i, a in enumerate(masks) for b in masks[:i]]
    assert min(apart) > 40  # of 400 pixels


def test_the_shape_of_each_colour_is_found_by_matching_it_at_every_place():
    """The oracle knows the eight silhouettes and nothing else."""
    images, shapes, _ = draw(60, seed=1)
    pattern = shape_masks() - shape_masks().mean((1, 2), keepdims=True)
    pattern /= np.sqrt((pattern**2).sum((1, 2), keepdims=True))
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(float), (20, 20), (2, 3))
    scores = np.einsum("nkabij,sij->nksab", windows[:, :, 2:11, 2:11], pattern)
    assert (scores.max((3, 4)).argmax(2) == shapes).mean() > 0.97


def test_the_mean_of_a_colour_shows_the_tint_and_a_pixel_does_not():
    images, shapes, counts = draw(2000, seed=2)
    means = images.mean((2, 3))  # (2000, 3)
    assert (means.argmax(1) == counts).mean() > 0.99
    tinted = np.arange(3) == counts[:, None]
    for shape in range(len(SHAPES)):  # a large shape is no tint: each brings the same light
        here = shapes == shape
        gain = means[here & tinted].mean() - means[here & ~tinted].mean()
        assert gain == pytest.approx(10, abs=1)
        assert means[here & ~tinted].mean() == pytest.approx(means[~tinted].mean(), abs=0.7)
    corner = images[:, :, :2, :2].mean((2, 3))  # no shape reaches it
    assert (corner.argmax(1) == counts).mean() < 0.5


def test_an_archive_for_fit():
    archive = tint_archive(300, 100, seed=5)
    images, shapes, counts = draw(100, seed=11)
    assert (archive.test.images == images).all()
    assert (archive.test.fine == [row[count] for row, count in zip(shapes, counts)]).all()
    assert (archive.test.coarse == archive.test.fine).all()
    assert len(archive.train) == 300 and archive.fine_names[:8] == SHAPES
    assert len(archive.fine_names) == 100 and len(archive.coarse_names) == 20
    assert (tint_archive(300, 100, seed=6).train.images != archive.train.images).any()


def test_classes_and_colours_are_even():
    _, shapes, counts = draw(6000, seed=0)
    assert np.bincount(counts) == pytest.approx([2000] * 3, abs=150)
    for colour in range(3):
        assert np.bincount(shapes[:, colour]) == pytest.approx([750] * 8, abs=110)


@pytest.mark.parametrize("wrong", [dict(n=0), dict(n=2.5), dict(n=3, seed=-1)])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ArgumentError, match="must be a whole number"):
        draw(**wrong)


@pytest.mark.parametrize("wrong", [dict(train=0), dict(test=True), dict(seed=-1)])
def test_an_archive_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ArgumentError, match=f"{list(wrong)[0]} must be a whole number"):
        tint_archive(**wrong)


# ------------------------------------------------------------------------ the positive control


def test_the_page_of_the_control_holds_what_its_rows_say(tmp_path):
    """results/tints.md against results/tints*.csv, counted here by hand with SciPy's t."""
    rows = read_rows(RESULTS / "tints.csv")
    for name in ("tints.csv", "tints-rates.csv", "tints.md"):
        if (RESULTS / name).is_file():
            (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    control.report(tmp_path)
    assert (tmp_path / "tints.md").read_text("utf-8") == (RESULTS / "tints.md").read_text("utf-8")
    for attempt in {row["attempt"] for row in rows}:
        own = [r for r in rows if r["attempt"] == attempt and r["module"] == "eca"]
        assert len(own) == 6
        gains = np.array([float(r["gated"]) - float(r["constant"]) for r in own])
        half = protocol.quantile(6, 0.95) * gains.std(ddof=1) / np.sqrt(6)
        table = control.answers_table([r for r in rows if r["attempt"] == attempt])
        said = next(line for line in table.splitlines() if line.startswith("| eca"))
        assert f"| {gains.mean():+.1f} | {gains.mean() - half:+.1f} to" in said
        assert said in (RESULTS / "tints.md").read_text("utf-8")


def test_the_lesson_reads_the_same_pairs():
    found = {
        (attempt, module, pair["seed"]): pair
        for attempt, modules in findings.tinted().items()
        for module, pairs in modules.items()
        for pair in pairs
    }
    rows = read_rows(RESULTS / "tints.csv")
    assert len(found) == len(rows) >= 24
    for row in rows:
        pair = found[int(row["attempt"]), row["module"], int(row["seed"])]
        assert all(pair[k] == float(row[k]) for k in ("gated", "constant", "spread", "cost"))


def test_the_best_rate_is_that_of_the_highest_mean():
    rows = [
        {"module": "m", "rate": rate, "seed": seed, "top1": top1}
        for rate, seed, top1 in ((0.05, 1, 70), (0.05, 2, 72), (0.1, 1, 60), (0.1, 2, 83))
    ]
    assert control.best_rates(rows) == {"m": 0.1}
    assert control.mean_top1(rows) == {"m": {0.05: 71, 0.1: 71.5}}
