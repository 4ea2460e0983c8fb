"""Make the weights that come with the package from finished runs of the recipe "shipped":

    export OMP_NUM_THREADS=1    # for the same bits; and two threads take longer on maps so narrow
    python -m nam_edu train --recipe shipped --attention nam --out runs/shipped-nam
    python -m nam_edu train --recipe shipped --attention none --out runs/shipped-none
    python -m experiments.ship runs/shipped-nam runs/shipped-none

A shipped run is a run folder that `open_run` opens: last.npz without the optimizer, convolutions
and the linear layer rounded to float16, with the gamma history; log.csv; run.json with the accuracy
of the rounded weights; README.md, the model card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nam_edu

CARD = """# ResNet-18 of width {width}, 3x3 stem, {title}

{values:,} trainable values, {size:.2f} MB ({float16}). Trained by this course on the
50,000 training images of CIFAR-100; made for its lessons, not for use elsewhere.

| on the 10,000 test images | |
|---|---:|
| top-1 | **{top1:.2f} %** (95 % interval {low:.2f} to {high:.2f}) |
| top-5 | {top5:.2f} % |
| top-1 of the weights before they were rounded | {before:.2f} % |
| top-1 on the training images, augmented, in the last epoch | {train:.2f} % |

One run, one seed; the weights are those of the last epoch, and nothing was chosen on the test
images. How it compares with its twin ({twin}) says next to nothing: see
[results/attention.md](../../../results/attention.md) for comparisons over seeds.

- Recipe: `shipped` with attention `{attention}`: {epochs} epochs, batch {batch_size}, rate
  {learning_rate:g} with a cosine by epoch, momentum {momentum:g} (Nesterov), weight decay
  {weight_decay:g}, crop with a border of {crop_padding} pixels, mirror images, seed {seed}. All
  fields are in [run.json](run.json).
- Made by `{command}`,
  then `python -m experiments.ship runs/shipped-{attention}`.
- {machine}, one thread, {minutes:.0f} minutes beside another run; Paddle {paddle}; begun {started}.
- Every epoch: [log.csv](log.csv).{history}
- Again: `python -m nam_edu evaluate --weights {option} --data PATH` gives the numbers above.
- What it is not: a good classifier. {minutes:.0f} minutes of one processor core went into it.
"""


def ship(source, target):
    """Write a shipped run; returns its accuracy."""
    import numpy as np

    from nam_edu import checkpoint
    from nam_edu.data import load_data
    from nam_edu.evaluation import evaluate
    from nam_edu.machinery.recorder import log_as_csv
    from nam_edu.runs import open_run

    run = open_run(source)
    if run.recipe.name != "shipped" or len(run.log) != run.recipe.epochs:
        raise SystemExit(f"{source} is no finished run of the recipe 'shipped'")
    attention = run.recipe.attention
    arrays = {
        f"network/{name}": a.astype("float16") if a.ndim > 1 else a
        for name, a in checkpoint.state_arrays(run.network).items()
    }
    arrays.update({f"gamma/{name}": rows for name, rows in run.gamma_history.items()})
    target.mkdir(parents=True, exist_ok=True)
    about = {
        **run.about,
        "command": "OMP_NUM_THREADS=1 python -m nam_edu train --recipe shipped "
        f"--attention {attention} --out runs/shipped-{attention}",
    }
    (target / "run.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (target / "log.csv").write_text(log_as_csv(run.log), encoding="utf-8")
    checkpoint.write_arrays(
        target / "last.npz",
        arrays,
        {"epoch": len(run.log), "step": 0, "log": run.log, "best_top1": -1.0, "train": None},
    )

    shipped = open_run(target)
    result = evaluate(shipped.network, load_data("cifar100").test)
    about["shipped"] = {"top1": round(result.top1, 2), "top5": round(result.top5, 2)}
    (target / "run.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (target / "README.md").write_text(
        CARD.format(
            **{**vars(run.recipe), **about, **about["versions"]},
            title="no attention" if attention == "none" else "NAM in every block",
            float16="float16; batch norms float32",
            size=(target / "last.npz").stat().st_size / 1e6,
            values=sum(
                int(np.prod(p.shape)) for p in run.network.parameters() if not p.stop_gradient
            ),
            top1=result.top1,
            top5=result.top5,
            low=result.top1_interval[0],
            high=result.top1_interval[1],
            before=run.log[-1]["eval_top1"],
            train=run.log[-1]["top1"],
            twin="`none`" if attention == "nam" else "`nam`",
            minutes=sum(row["seconds"] for row in run.log) / 60,
            history="\n- The gamma of every NAM layer after every epoch: `gamma/...` in last.npz."
            if run.gamma_history
            else "",
            option="shipped" if attention == "nam" else f"shipped-{attention}",
        ),
        encoding="utf-8",
    )
    return result


if __name__ == "__main__":
    nam_edu.setup()
    from nam_edu.runs import SHIPPED, saved_recipe

    for folder in map(Path, sys.argv[1:]):
        print(folder, ship(folder, SHIPPED / saved_recipe(folder).attention).top1)
