"""A training step and inference with oneDNN and without: python -m benchmarks.paths [--out FILE].

Each case runs in a process of its own, for some seconds; the ways take turns, round after round.
The figures are images per second, medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.speed import provenance, table

# what it is, depth, stem, width, images of a batch
SHAPES = (
    ("recipe `shipped`", 18, "cifar", 12, 128),
    ("recipe `quick`", 18, "imagenet", 16, 128),
    ("ResNet-18", 18, "imagenet", 64, 128),
    ("ResNet-50", 50, "imagenet", 64, 128),
)
WAYS = {"products": "own products", "": "oneDNN and own products"}


def measure(depth, stem, width, batch, seconds):
    """Images per second of a training step and of inference, printed."""
    import nam_edu

    nam_edu.setup(data="given")
    import paddle

    from nam_edu.machinery.inference import outputs
    from nam_edu.resnet import resnet

    network = resnet(depth, stem=stem, width=width)
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=network.parameters())
    x, y = paddle.randn([batch, 3, 32, 32]), paddle.randint(0, 100, [batch])

    def train():
        paddle.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.clear_grad()

    def infer():
        for logits in outputs(network, [x] * 4, parallel=True):
            float(logits[0, 0])

    for work, images in ((train, batch), (infer, 4 * batch)):
        work()
        work()
        took, stop = [], time.perf_counter() + seconds
        while time.perf_counter() < stop:
            started = time.perf_counter()
            work()
            took.append(time.perf_counter() - started)
        network.eval()
        print(images / statistics.median(took))


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        depth, stem, width, batch = args.case
        measure(int(depth), stem, int(width), int(batch), args.seconds)
        return
    found = {}
    for _ in range(args.rounds):
        for name, *case in SHAPES:
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.paths", "--seconds", str(args.seconds)]
                done = subprocess.run(
                    [*command, "--case", *map(str, case)],
                    env={**os.environ, "NAM_EDU_CONVOLUTION": way},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                rates = [float(line) for line in done.stdout.split("\n")[-3:-1]]
                for what, rate in zip(("training", "inference"), rates):
                    found.setdefault((name, what, way), []).append(rate)
    rows = []
    for name, *_ in SHAPES:
        for what in ("training", "inference"):
            without, with_it = (statistics.median(found[name, what, way]) for way in WAYS)
            rows.append(
                [name, what, f"{without:.0f}", f"{with_it:.0f}", f"{with_it / without:.2f}x"]
            )
    header = ["32x32 images, batch 128", "", *(f"{way}, images/s" for way in WAYS.values()), ""]
    text = provenance("benchmarks.paths", sys.argv[1:]) + "\n\n" + table(header, rows) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
