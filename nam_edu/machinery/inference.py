"""A network on many images without gradients: whole batches side by side on a CPU's cores."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
from functools import cache

import paddle

from ..backend import thread_count
from .convolution import fixed_weights, switched_off

_modes = threading.RLock()


@contextlib.contextmanager
def inference_mode(network):
    """Inside, every layer of a network is in inference mode; afterwards each is in the mode that it
    was in. One thread at a time: another one would take this for the mode that it is to restore."""
    layers = network.sublayers(include_self=True)
    with _modes:
        training = [layer.training for layer in layers]
        network.eval()
        try:
            yield
        finally:
            for layer, mode in zip(layers, training):
                layer.training = mode


def outputs(network, batches, parallel=False):
    """[network(batch) for every batch], without gradients; the network must be in inference mode.

    parallel: on a CPU let each thread take whole batches, since most of Paddle's operations but the
    matrix products use one thread only. For networks whose layers remember nothing. Where a hook is
    registered, batches follow one another all the same. No weight may change meanwhile.
    """
    threads = thread_count()
    parallel = (
        parallel
        and threads > 1
        and not switched_off()
        and paddle.device.get_device() == "cpu"
        and not any(
            layer.training or layer._forward_pre_hooks or layer._forward_post_hooks
            for layer in network.sublayers(include_self=True)
        )
    )
    made = {}  # of the weights, by all threads

    def run(batch):
        with paddle.no_grad(), fixed_weights(made):
            return network(batch)

    if not parallel:
        return [run(batch) for batch in batches]
    done, waiting = [], collections.deque()
    paddle.base.core.set_num_threads(1)
    try:
        for batch in batches:  # a few at a time: the images need not all be there at once
            waiting.append(_pool(threads).submit(run, batch))
            if len(waiting) > 2 * threads:
                done.append(waiting.popleft().result())
        while waiting:
            done.append(waiting.popleft().result())
    finally:
        concurrent.futures.wait(waiting)
        paddle.base.core.set_num_threads(threads)
    return done


@cache
def _pool(threads):
    """Threads that stay: new ones would have to fetch all their memory from the system again. None
    of them starts threads of its own."""
    return concurrent.futures.ThreadPoolExecutor(
        threads, initializer=paddle.base.core.set_num_threads, initargs=(1,)
    )
