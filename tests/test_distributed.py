"""Two processes on a CPU, started by paddle.distributed.launch."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from helpers import random_split

from nam_edu.augmentation import Augmentation
from nam_edu.data import Archive, write_archive
from nam_edu.training import Batches, build_network, learning_rate, open_run, recipe

RECIPE = recipe(
    "ci",
    width=4,
    epochs=2,
    batch_size=64,
    train_images=0,
    validation=0,
    learning_rate=0.02,
    momentum=0.9,
    weight_decay=5e-4,
)


def by_hand(recipe, train):
    """The same two epochs in one process: each half of a batch through a network of its own, the
    gradients averaged, running statistics averaged after each epoch."""
    networks = [build_network(recipe), build_network(recipe)]
    optimizers = [
        paddle.optimizer.Momentum(
            recipe.learning_rate,
            recipe.momentum,
            parameters=network.parameters(),
            use_nesterov=True,
            weight_decay=recipe.weight_decay,
        )
        for network in networks
    ]
    batches = Batches(
        train,
        recipe.batch_size,
        networks[0].normalization,
        Augmentation(recipe.crop_padding, flip=recipe.flip),
        recipe.seed,
    )
    step = 0
    for epoch in range(recipe.epochs):
        batches.epoch = epoch
        for images, labels in batches:
            for half, network in enumerate(networks):
                network.train()
                loss = paddle.nn.functional.cross_entropy(
                    network(paddle.to_tensor(images[half::2])), paddle.to_tensor(labels[half::2])
                )
                loss.backward()
            for first, second in zip(*(network.parameters() for network in networks)):
                if not first.stop_gradient:
                    mean = (first.grad + second.grad) / 2
                    first.grad.set_value(mean)
                    second.grad.set_value(mean)
            for optimizer in optimizers:
                optimizer.set_lr(learning_rate(RECIPE, step, len(batches)))
                optimizer.step()
                optimizer.clear_grad()
            step += 1
        for first, second in zip(*(network.parameters() for network in networks)):
            if first.stop_gradient:
                mean = (first + second) / 2
                first.set_value(mean)
                second.set_value(mean)
    return networks[0]


@pytest.mark.skipif(sys.platform != "linux", reason="gloo is tried on Linux only")
def test_two_processes_agree_with_the_same_by_hand(tmp_path, monkeypatch):
    # As in several processes: other sums round differently, and training amplifies that.
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", "paddle")
    train, test = random_split(256, 0), random_split(200, 1)
    data = write_archive(
        tmp_path / "data.tar.gz", Archive(train, test, train.fine_names, train.coarse_names)
    )
    changes = [
        f"--{name.replace('_', '-')}={getattr(RECIPE, name)}"
        for name in ("width", "epochs", "batch_size", "train_images", "validation", "learning_rate")
    ]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            "--backend",
            "gloo",
            "--log_dir",
            str(tmp_path / "log"),
            "nam_edu/__main__.py",
            "train",
            "--recipe",
            "ci",
            *changes,
            "--data",
            str(data),
            "--out",
            str(tmp_path / "run"),
        ],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    run = open_run(tmp_path / "run")
    assert len(run.log) == 2 and 0 <= run.log[-1]["top1"] <= 100
    expected = by_hand(run.recipe, train).state_dict()
    for name, value in run.network.state_dict().items():
        np.testing.assert_allclose(
            value.numpy(), expected[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name
        )
