"""Operations whose gradient is written by hand: right once, and refused where it would be wrong."""

from __future__ import annotations

import sys

import paddle
from paddle.autograd import PyLayer

AS_LIST = not paddle.__version__.startswith("2.")  # Paddle 2.6 mixes up the gradients of a list
INSTEAD = (
    "set NAM_EDU_CONVOLUTION=paddle before Python starts: Paddle's own operations, slower, "
    "can do it"
)


class Operation:
    """An operation with the static methods of a PyLayer: `forward(ctx, ...)`, and `backward(ctx,
    grad)`, which gives one gradient, or None, for every tensor among the arguments of `forward`.

    What Paddle's PyLayer gets wrong is refused or kept away:
    - under create_graph=True the second gradient would lack the terms that lead through what
      `forward` computed;
    - after backward(retain_graph=True) a PyLayer's context is forgotten all the same, and the next
      backward would end the process;
    - `paddle.grad` for some tensors only takes gradients for unwanted that `backward` gives. As
      one list of tensors, which it never cuts, all are welcome (in Paddle 3; in 2.6 it raises).
    """

    @classmethod
    def apply(cls, *arguments):
        places = [i for i, value in enumerate(arguments) if isinstance(value, paddle.Tensor)]
        # Of a list Paddle looks at the first alone to see whether gradients are wanted.
        order = sorted(range(len(places)), key=lambda k: arguments[places[k]].stop_gradient)
        others = [None if i in places else value for i, value in enumerate(arguments)]
        tensors = [arguments[places[k]] for k in order]
        return _Node.apply(cls, places, order, others, *([tensors] if AS_LIST else tensors))


class _Node(PyLayer):
    @staticmethod
    def forward(ctx, operation, places, order, arguments, *tensors):
        for k, tensor in zip(order, tensors[0] if AS_LIST else tensors):
            arguments[places[k]] = tensor
        ctx.operation, ctx.order = operation, order
        return operation.forward(ctx, *arguments)

    @staticmethod
    def backward(ctx, grad):
        if paddle.is_grad_enabled():  # Paddle switches it on in a backward pass for create_graph
            raise RuntimeError(
                "the gradient of a gradient (create_graph=True) cannot be computed "
                f"through nam_edu's fast convolutions and gates; {INSTEAD}"
            )
        if _graph_is_retained():
            raise RuntimeError(
                "backward(retain_graph=True) is not possible with nam_edu's fast "
                "convolutions and gates: add the losses up and call backward once, "
                f"or use paddle.grad(..., retain_graph=True), or {INSTEAD}"
            )
        grads = ctx.operation.backward(ctx, grad)
        grads = grads if isinstance(grads, tuple) else (grads,)
        grads = [grads[k] for k in ctx.order]
        return grads if AS_LIST else tuple(grads)


def _graph_is_retained():
    """Whether the Python function that started this backward pass, `backward` of a tensor or of
    paddle.autograd, was called with retain_graph=True; a PyLayer is not told."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name == "backward":
        if "retain_graph" in frame.f_code.co_varnames:
            return bool(frame.f_locals["retain_graph"])
        frame = frame.f_back
    return False
