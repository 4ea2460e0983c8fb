"""Holds the part of grading that runs in the kernel, beside the code that was handed in.

What decides lies in local variables from before that code runs: a notebook that replaces `check`,
`CHECKERS` or a function of NumPy or of this package does not change the verdict, or is found out.
It is no sandbox: Python code can reach whatever its process can.
"""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import paddle

from ..exercises import CHECKERS
from ..exercises.checking import Wrong
from .language import words

FOUNDATIONS = ("builtins", "math", "paddle", "paddle.nn", "paddle.nn.functional")


def _functions():
    """{"module.name": (function or class, its code)} of all that a checker may stand on."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name in FOUNDATIONS or name.partition(".")[0] in ("numpy", "nam_edu"):
            for key, value in list(vars(module).items()):
                if callable(value) and not key.startswith("_"):
                    found[f"{name}.{key}"] = value, getattr(value, "__code__", None)
    return found


def _one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("(")), lines[0] if lines else "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def examine(number, name, above, cell):
    """Run the sources `above`, which may fail, and `cell`, which may not; then check what `name`
    stands for. Returns JSON: [outcome, remark], the remark in the language of NAM_EDU_LANG."""
    import IPython

    checker, wrong, dumps, functions = CHECKERS[number], Wrong, json.dumps, _functions
    raised_by_cell = words("the cell raised {error}", error="{error}")
    raised_by_answer = words("the answer raised {error}", error="{error}")
    undefined = words("no cell defines {name}", name=name)
    tampered = words("the notebook replaced {what}", what="{what}")
    shell, before = IPython.get_ipython(), _functions()
    random.seed(0)
    np.random.seed(0)
    paddle.seed(0)
    for source in above:
        shell.run_cell(source, silent=True)
    ran = shell.run_cell(cell, silent=True)
    error = ran.error_before_exec or ran.error_in_exec
    if error is not None:
        return dumps(["error", raised_by_cell.replace("{error}", _one_line(error))])
    if name not in shell.user_ns:
        return dumps(["wrong", undefined])
    try:
        checker(shell.user_ns[name])
        outcome, remark = "right", ""
    except wrong as said:
        is_open = said.message.startswith("not solved yet")  # in English, whatever is printed
        outcome, remark = ("not solved", "") if is_open else ("wrong", str(said))
    except BaseException as raised:  # SystemExit, too
        outcome, remark = "error", raised_by_answer.replace("{error}", _one_line(raised))
    after, nothing = functions(), (None, None)
    replaced = [
        key
        for key, (function, code) in before.items()
        if after.get(key, nothing)[0] is not function or after[key][1] is not code
    ]
    if outcome == "right" and replaced:
        outcome, remark = "tampered", tampered.replace("{what}", ", ".join(replaced[:3]))
    return dumps([outcome, remark])
