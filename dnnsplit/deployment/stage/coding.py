"""What a stage writes in forms and reads from them: tensors that cross links, and the encoded images of clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dnnsplit.codecs.forms import codec_of_image, decode_image
from dnnsplit.codecs.pixels import Malformed, Unfit
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.deployment.stage.buffers import Peer, Request, Sending
from dnnsplit.deployment.stage.processor import Found, Spent
from dnnsplit.deployment.wire.messages import Elements, ReadRecord, TransferRecord

if TYPE_CHECKING:
    from dnnsplit.deployment.stage.work import Runner


class Coder:
    """Writes and reads the tensors of a stage, as jobs of its processor."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.bundle, self.server = runner, runner.bundle, runner.server

    def take(self, request: Request, name: str, given: np.ndarray | Elements) -> None:
        """Take a graph input at the source, as an array or as encoded images."""
        runner, do = self.runner, self.runner.processor.do
        if isinstance(given, Elements):
            do(request, f"reading the images of {name!r}", partial(self._take_images, request, name, given))
        elif (form := self.bundle.forms.get((name, self.server, self.server))) is not None:
            with runner.state:
                runner.send_on(request, name, given)
            do(request, f"writing {name!r} as {form}", partial(self._keep_what_is_left, request, name, given, form))
        else:
            runner.deliver(request, name, self._tensor(name, given))

    def receive(self, request: Request, name: str, came: np.ndarray | Elements) -> None:
        """Take a tensor that another stage sent."""
        if isinstance(came, Elements):
            self.runner.processor.do(request, f"reading {name!r} as {came.form}", partial(self._read, request, name, came))
        else:
            self.runner.deliver(request, name, came)

    def _tensor(self, name: str, given: np.ndarray) -> np.ndarray:
        """Return the tensor that holds 8-bit images, or the images where nothing else is made of them."""
        dtype = np.dtype(self.runner.wires[name].dtype)
        as_images = given.dtype == dtype or name in self.bundle.leave_as_images
        return given if as_images else self.bundle.pixels[name].values(given, dtype)

    def write(self, request: Request, name: str, array: np.ndarray, peer: Peer, form: str) -> None:
        """Write a tensor in a form, then send it; one that the form cannot hold crosses as it is."""
        self.runner.processor.do(request, f"writing {name!r} as {form}", partial(self._write, request, name, array, peer, form))

    def _write(self, request: Request, name: str, array: np.ndarray, peer: Peer, form: str) -> None:
        written, spent = self._timed(request, lambda: self._encoded(name, array, form))
        tensor, form = (array, self.runner.wires[name].plain) if written is None else (written, form)
        peer.queue.put(Sending(request, name, tensor, form, spent.wall_s))

    def _read(self, request: Request, name: str, came: Elements) -> None:
        array, spent = self._timed(request, lambda: self._decoded(name, came))
        with self.runner.state:
            request.reads.append(ReadRecord(name, self.server, spent.wall_s))
        self.runner.deliver(request, name, array, came if name in self.bundle.lossy_inputs else None)

    def _keep_what_is_left(self, request: Request, name: str, array: np.ndarray, form: str) -> None:
        """Keep a graph input as the other servers read it, which loses something by its form."""
        left, read_s = array, 0.0
        written, spent = self._timed(request, lambda: self._encoded(name, array, form))
        if written is None:
            form = self.runner.wires[name].plain
        else:
            left, read = self._timed(request, lambda: self._decoded(name, written))
            read_s = read.wall_s
        self._note(request, name, form, spent.wall_s, read_s)
        self.runner.keep(request, name, left)

    def _take_images(self, request: Request, name: str, given: Elements) -> None:
        """Read the images that a client sent; those in the form already in which they are to cross are passed on as they came."""
        (array, came), spent = self._timed(request, lambda: read_images(self.bundle, name, given))
        self._note(request, name, came.form, 0.0, spent.wall_s)
        if self.bundle.lossy_inputs.get(name, came.form) == came.form:
            self.runner.deliver(request, name, array, came)
        else:
            self.take(request, name, array)

    def _note(self, request: Request, name: str, form: str, encode_s: float, decode_s: float) -> None:
        """Tell of a graph input what was written and read at the source, for the source."""
        with self.runner.state:
            told = TransferRecord(name, self.server, self.server, 0, 0.0, 0.0, form, encode_s, decode_s)
            request.transfers.append(told)

    def _encoded(self, name: str, array: np.ndarray, form: str) -> Elements | None:
        try:
            return Elements(self.bundle.codec(name, form).encode(array), form, array.shape)
        except Unfit:
            return None

    def _decoded(self, name: str, came: Elements) -> np.ndarray:
        return self.bundle.codec(name, came.form).decode(came.elements, self.runner.wires[name].dtype, came.shape)

    def _timed(self, request: Request, work: Callable[[], Found]) -> tuple[Found, Spent]:
        return self.runner.processor.timed(request, work, time.thread_time)  # whatever provider runs the parts


def read_images(bundle: Bundle, name: str, given: Elements) -> tuple[np.ndarray, Elements]:
    """Return the tensor that holds some images, and the images under a form in which they may be passed on as they came.

    That is the form in which the input is to leave the source, where they are of its kind: no quality is lost twice. Else they
    go by their kind.

    Raises
    ------
    Malformed
        They are no images of the size, channels and number that the input takes; found out before they are unpacked.
    """
    wire, pixels = bundle.wire_by_name[name], bundle.pixels[name]
    batch = "N" in pixels.layout
    count, shape = (wire.shape[0], (1, *wire.shape[1:])) if batch else (1, wire.shape)
    if len(given.elements) != count:
        message = f"{len(given.elements)} images for input {name!r}, which holds {count}"
        raise Malformed(message)
    kinds = sorted({codec_of_image(element) for element in given.elements})
    arrays = [decode_image(element, pixels, wire.dtype, shape) for element in given.elements]
    planned = [form for (wire_name, source, _), form in bundle.forms.items() if (wire_name, source) == (name, bundle.source)]
    form = next((form for form in planned if [form.partition("-")[0]] == kinds), ", ".join(kinds))
    return np.concatenate(arrays) if batch else arrays[0], Elements(given.elements, form, wire.shape)
