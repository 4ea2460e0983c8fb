"""Which way of computing a convolution is the fastest for which shape:
python -m benchmarks.convolution [--out results/convolution.md].

The choice in nam_edu.machinery.convolution stands on these numbers: processor time of forward and
backward for every shape of ResNet-18 and ResNet-50 at 32x32 with the 7x7 stem, batch 128, of the
narrow networks of the lessons, and of larger maps. One thread, since other work on the machine
disturbs processor time least.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

# map, in, out, kernel, stride
SHAPES = [
    (32, 3, 64, 7, 2),
    (32, 12, 12, 3, 1),
    (32, 64, 64, 3, 1),
    (16, 24, 24, 3, 1),
    (16, 64, 64, 3, 1),
    (8, 16, 16, 3, 1),
    (8, 32, 32, 3, 1),
    (4, 32, 32, 3, 1),
    (2, 64, 64, 3, 1),
    (8, 64, 64, 3, 1),
    (8, 128, 128, 3, 1),
    (8, 64, 64, 1, 1),
    (8, 64, 256, 1, 1),
    (8, 256, 64, 1, 1),
    (8, 256, 128, 1, 1),
    (8, 64, 128, 3, 2),
    (8, 128, 128, 3, 2),
    (8, 256, 512, 1, 2),
    (4, 128, 128, 3, 1),
    (4, 128, 512, 1, 1),
    (4, 512, 128, 1, 1),
    (4, 512, 256, 1, 1),
    (4, 128, 256, 3, 2),
    (4, 256, 256, 3, 2),
    (4, 512, 1024, 1, 2),
    (2, 256, 256, 3, 1),
    (2, 256, 1024, 1, 1),
    (2, 1024, 256, 1, 1),
    (2, 256, 512, 3, 2),
    (2, 512, 512, 3, 2),
    (2, 1024, 2048, 1, 2),
    (1, 512, 512, 3, 1),
    (1, 512, 2048, 1, 1),
    (1, 2048, 512, 1, 1),
]


def ways(paddle, size, c_in, c_out, kernel, stride):
    """(name, x, function) of every way that can compute this shape."""
    import paddle.nn.functional as F

    from nam_edu.machinery import convolution as C
    from nam_edu.machinery import onednn

    weight = paddle.randn([c_out, c_in, kernel, kernel])
    weight.stop_gradient = False
    images = c_in > 3  # the gradient of the images themselves is not needed

    def tensor(shape):
        x = paddle.randn(shape)
        x.stop_gradient = not images
        return x

    first, last = tensor([128, c_in, size, size]), tensor([128, size, size, c_in])
    p = kernel // 2
    yield "Paddle", first, weight, lambda: F.conv2d(first, weight, stride=stride, padding=p)
    yield (
        "gathered",
        last,
        weight,
        lambda: C._Gathered.apply(last, weight, (stride, stride), (p, p, p, p)),
    )
    if kernel == 3 and stride == 1:
        yield "winograd", last, weight, lambda: C._Winograd.apply(last, weight, (p, p, p, p))
    if onednn.available():
        how = (stride, stride), (p, p, p, p)
        yield "oneDNN", last, weight, lambda: onednn.conv2d(last, weight, None, *how)
    yield (
        "chosen",
        last,
        weight,
        lambda: C.conv2d(last, weight, stride=(stride, stride), padding=(p, p)),
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="write the table to this file as well")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from nam_edu.backend import import_paddle, tune_cpu

    tune_cpu()
    paddle = import_paddle()
    from benchmarks.speed import THREADS, provenance, table

    THREADS["OMP_NUM_THREADS"] = "1"

    names, rows = ("Paddle", "gathered", "winograd", "oneDNN", "chosen"), []
    for shape in SHAPES:
        contenders = list(ways(paddle, *shape))
        best = {}
        for _ in range(args.rounds):
            for name, x, weight, run in contenders:
                started = time.process_time()
                y = run()
                y.backward(y)
                spent = 1000 * (time.process_time() - started)
                best[name] = min(best.get(name, spent), spent)
                x.clear_grad()
                weight.clear_grad()
        size, c_in, c_out, kernel, stride = shape
        rows.append(
            [f"{size}x{size}", c_in, c_out, f"{kernel}x{kernel}", stride]
            + [f"{best[name]:.1f}" if name in best else "" for name in names]
        )
    text = "\n".join(
        [
            "# One convolution, forward and backward: ms of processor time, best of the rounds",
            "",
            provenance("benchmarks.convolution", sys.argv[1:]).replace(
                "Median [lowest to highest round].", "Batch 128."
            ),
            "",
            table(["map", "in", "out", "kernel", "stride", *names], rows),
            "",
        ]
    )
    print(text)
    if args.out:
        from nam_edu.machinery.files import write_text

        write_text(args.out, text)


if __name__ == "__main__":
    main()
