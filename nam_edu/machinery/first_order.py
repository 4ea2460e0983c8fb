"""A guard for gradients written by hand: used in a way that they cannot serve, they refuse."""
from __future__ import annotations

import functools
import sys

import paddle

INSTEAD = ("set NAM_EDU_CONVOLUTION=paddle before Python starts: Paddle's own operations, slower, "
           "can do it")


def first_order(backward):
    """Decorates `backward` of a PyLayer whose gradient is right once, and is not differentiable.

    Under create_graph=True the terms that lead through what `forward` computed would be missing
    from the second gradient. After backward(retain_graph=True) Paddle forgets a PyLayer's context
    all the same, and the next backward ends the process. `paddle.grad(..., retain_graph=True)`
    works on copies and is fine. Raises RuntimeError.
    """
    @functools.wraps(backward)
    def guarded(ctx, *grads):
        if paddle.is_grad_enabled():  # Paddle switches it on in a backward pass for create_graph
            raise RuntimeError("the gradient of a gradient (create_graph=True) cannot be had from "
                               f"nam_edu's fast convolutions and gates; {INSTEAD}")
        if _graph_is_retained():
            raise RuntimeError("backward(retain_graph=True) is not possible with nam_edu's fast "
                               "convolutions and gates: add the losses up and call backward once, "
                               f"or use paddle.grad(..., retain_graph=True), or {INSTEAD}")
        return backward(ctx, *grads)

    return guarded


def _graph_is_retained():
    """Whether the Python function that started this backward pass, `backward` of a tensor or of
    paddle.autograd, was called with retain_graph=True; a PyLayer is not told."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name == "backward":
        if "retain_graph" in frame.f_code.co_varnames:
            return bool(frame.f_locals["retain_graph"])
        frame = frame.f_back
    return False
