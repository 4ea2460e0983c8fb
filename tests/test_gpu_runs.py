"""experiments/gpu.py, the second round in PyTorch, against the package: the same network, step,
windows and rates. Needs torch, which the course does not install."""

import csv
import io
import pickle
import sys
import tarfile

import numpy as np
import paddle
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from experiments import attention, gpu, protocol  # noqa: E402
from experiments.attention import ROUND_2, Trial  # noqa: E402
from nam_edu import augmentation, training  # noqa: E402
from nam_edu.recipes import learning_rate  # noqa: E402

ARMS = [t for t in ROUND_2["round2-a"] if t.seed == 6]


def small(trial):
    """Few channels, and a rate at which rounding errors do not grow within three steps."""
    return Trial(**{**attention.dataclasses.asdict(trial), "width": 4, "learning_rate": 0.02})


def twins(network):
    """[(parameter or statistic of Paddle's network, of PyTorch's)], whole networks."""

    def parts(layer, of_paddle):
        names = ("weight", "bias")
        statistics = ("_mean", "_variance") if of_paddle else ("running_mean", "running_var")
        return [t for n in names + statistics if (t := getattr(layer, n, None)) is not None]

    def layers(theirs):
        ours, twin = network
        yield ours.conv1, twin[0]
        yield ours.bn1, twin[1]
        blocks = [b for stage in (1, 2, 3, 4) for b in getattr(ours, f"layer{stage}")]
        for block, other in zip(blocks, theirs):
            for name, i in (("conv1", 0), ("bn1", 1), ("conv2", 3), ("bn2", 4)):
                yield getattr(block, name), other.branch[i]
            if block.downsample is not None:
                yield from zip(block.downsample, other.downsample)
            if isinstance(other.attention, gpu.Gate):
                yield block.attention.channel.bn, other.attention.bn
        yield ours.fc, twin[-1]

    blocks = [b for b in network[1] if isinstance(b, gpu.Block)]
    for ours, theirs in layers(blocks):
        a, b = parts(ours, True), parts(theirs, False)
        assert len(a) == len(b)
        yield from zip(a, b)


def as_paddle(tensor, like):
    array = tensor.detach().cpu().numpy()
    return array.T if list(array.shape) != list(like.shape) else array


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(rng.integers(0, 100, n))


@pytest.mark.parametrize("trial", ARMS, ids=[t.name for t in ARMS])
def test_three_steps_are_those_of_the_package(trial):
    trial = small(trial)
    data = {"train": pictures(96), "test": pictures(32, 1)}
    run = gpu.Training(trial, gpu.Images(data, 0, 0, "cpu"), graphs=False)
    recipe = trial.recipe()
    ours = training.build_network(recipe)
    assert ours.layer1[0].bn2.weight.numpy().mean() == pytest.approx(trial.last_gamma)
    assert float(run.network[4].branch[-1].weight.detach().mean()) == trial.last_gamma
    for here, there in twins((ours, run.network)):
        here.set_value(as_paddle(there, here).copy())
    optimizer = training.build_optimizer(recipe, ours, 1)
    run.begin_epoch(0)
    run.corner.fill_(4 * 40 + 4)  # no augmentation
    run.mirror.zero_()
    images, labels = data["train"]
    for step in range(3):
        rows = run.order[32 * step : 32 * (step + 1)]
        x = gpu.Images(data, 0, 0, "cpu").normalised(images[rows]).numpy()
        ours.train()
        loss = paddle.nn.functional.cross_entropy(
            ours(paddle.to_tensor(x)), paddle.to_tensor(labels[rows].numpy())
        )
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        run.step(32)
    for here, there in twins((ours, run.network)):
        if "variance" in here.name or "w_2" in here.name:
            continue  # PyTorch keeps the unbiased variance of a batch, Paddle the biased one
        np.testing.assert_allclose(here.numpy(), as_paddle(there, here), rtol=1e-3, atol=5e-5)
    assert float(run.loss) > 0 and int(run.done) == 96


def test_windows_are_those_of_the_package():
    images, labels = pictures(20)
    data = {"train": (images, labels), "test": pictures(5)}
    own = gpu.Images(data, 0, 0, "cpu")
    rng = np.random.default_rng(1)
    rows, (top, left) = rng.integers(0, 20, 12), rng.integers(0, 9, (2, 12))
    mirror = rng.random(12) < 0.5
    wanted = augmentation.crop(images.numpy()[rows], 4, top, left)
    wanted = augmentation.flip(wanted, mirror)
    found, answers = own.batch(
        torch.from_numpy(rows), torch.from_numpy(40 * top + left), torch.from_numpy(mirror * 1)
    )
    pixels = (found * own.std + own.mean) * 255
    np.testing.assert_allclose(pixels.numpy(), wanted, atol=1e-3)
    assert answers.tolist() == labels[rows].tolist()


def test_rates_are_those_of_the_package():
    for trial in (ARMS[0], ROUND_2["round2-b"][0], ROUND_2["round2-rates"][4]):
        recipe = trial.recipe()
        for epoch in range(trial.epochs):
            assert gpu.rate_of(trial, epoch) == pytest.approx(learning_rate(recipe, 7 * epoch, 7))


def test_arms_of_a_seed_start_alike():
    none, half, nam = (gpu.network_of(t) for t in ROUND_2["round2-b"][:3])
    for other in (half, nam):
        for a, b in zip(none, other):
            of_b = dict(b.named_parameters())
            assert all(torch.equal(t, of_b[name]) for name, t in a.named_parameters())
    later = gpu.network_of(ROUND_2["round2-b"][3])
    assert not torch.equal(none[0].weight, later[0].weight)


def write_archive(path):
    with tarfile.open(path, "w:gz") as archive:
        for split, n in (("train", 150), ("test", 60)):
            images, labels = pictures(n, n)
            raw = {"data": images.reshape(n, -1).numpy(), "fine_labels": labels.tolist()}
            content = pickle.dumps(raw)
            info = tarfile.TarInfo(f"cifar-100-python/{split}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_rows_of_a_part(tmp_path, monkeypatch, capsys):
    """All arms of part A and a held-out run, two seeds, from the command line; a second call makes
    nothing; a run whose loss is no number is tried twice and left out."""
    write_archive(tmp_path / "archive.tar.gz")
    shorter = [
        Trial(**{**attention.dataclasses.asdict(t), "width": 2, "epochs": 2})
        for t in ROUND_2["round2-a"]
        if t.seed in (6, 7)
    ]
    rates = [Trial("half", 12, 2, 1, validation=30, part="rates")]
    monkeypatch.setitem(gpu.ROUND_2, "round2-a", shorter)
    monkeypatch.setitem(gpu.ROUND_2, "round2-rates", rates)
    command = [
        "gpu",
        str(tmp_path / "archive.tar.gz"),
        "--out",
        str(tmp_path),
        "--commit",
        "f" * 40,
    ]
    command += ["--parts", "a", "rates"]
    monkeypatch.setattr(sys, "argv", command)
    real = gpu.rate_of
    monkeypatch.setattr(gpu, "rate_of", lambda t, e: np.nan if t.seed == 7 else real(t, e))
    gpu.main()
    assert capsys.readouterr().out.count("FAILED") == 2 * len(ARMS)
    monkeypatch.setattr(gpu, "rate_of", real)
    gpu.main()
    capsys.readouterr()
    gpu.main()
    assert "took" not in capsys.readouterr().out
    runs, curves, gates, fixed = (
        list(csv.DictReader(open(tmp_path / f"{name}.csv", encoding="utf-8")))
        for name in gpu.GPU_TABLES
    )
    assert {r["run"] for r in runs} == {t.name for t in shorter + rates}
    assert {r["evaluated_on"] for r in runs} == {"test", "validation"}
    names = {c["run"] for c in gates}
    assert names == {t.name for t in shorter if t.attention.startswith("nam")}
    assert len(gates) == 8 * 2 * len(names) and len(curves) == 2 * len(shorter) + 1
    assert all(0.2 < float(g["gate_mean"]) < 0.8 and float(g["gate_std"]) > 0 for g in gates)
    assert {r["run"] for r in fixed} == names
    assert all(r["top1_half"] and r["top1_layer"] for r in fixed)
    monkeypatch.setattr(sys, "argv", [*command[:4], "--commit", "e" * 40])
    with pytest.raises(SystemExit, match="comes from one commit"):
        gpu.main()
    assert protocol.combination(runs, {"a-nam": 1, "a-half": -1}).keys() == {6, 7}
