"""Arrays of numpy: which share their memory, and which must not.

1. A view comes back as a view of the same array, however often it was cut or turned.
2. The arrays inside a frame of pandas come back with memory of their own: pandas shares memory only while it counts
   who shares, and those counts are not stored.
3. A small view that alone holds a large array is stored without the rest of it.
"""

from __future__ import annotations

import array as arrays
import importlib
import mmap
import pickle
import sys
from typing import TYPE_CHECKING, Any

from .rebuild import rebuilder
from .storage import Storage

if TYPE_CHECKING:
    from .pickler import Reducers

__all__ = ["Detached", "reduce_array", "reduce_detached", "reduce_holder"]

PROTOCOL = 5

#: A view keeps what it does not show of an array only up to this many bytes, or times its own size, if nobody else
#: can see it.
_UNSEEN_BYTES = 64 << 10
_UNSEEN_TIMES = 16

#: References to an array that only one view holds: that view, the variable here, the argument of `getrefcount`.
_ONE_HOLDER = 3


class Detached:
    """Stands for an array that is stored with memory of its own."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


def reduce_array(reducers: Reducers, array: Any) -> Any:
    from .pickler import reduce_by_hook

    numpy = sys.modules["numpy"]
    if type(array) is not numpy.ndarray:
        base = array.base
        if isinstance(base, numpy.ndarray) and sys.getrefcount(base) > _ONE_HOLDER:
            reducers.rebuilt(array, "it has memory of its own and is a view no longer")
        return reduce_by_hook(reducers, array)
    owner = array
    while type(owner.base) is numpy.ndarray:
        owner = owner.base
    if owner is array:
        return _over_a_buffer(reducers, numpy, array)
    if not array.size:
        return _own(array)
    alone = sys.getrefcount(owner) <= _ONE_HOLDER and owner.nbytes > max(_UNSEEN_BYTES, _UNSEEN_TIMES * array.nbytes)
    if alone:
        return _own(array.copy(order="K"))
    return _view(reducers, array, owner)


def _over_a_buffer(reducers: Reducers, numpy: Any, array: Any) -> Any:
    base = array.base
    while type(base) is memoryview and base.contiguous and isinstance(base.obj, bytearray | arrays.array):
        base = base.obj
    if not isinstance(base, bytearray | arrays.array) or isinstance(base, Storage) or not array.size:
        if isinstance(base, mmap.mmap):
            reducers.rebuilt(array, "it has memory of its own and no longer shows a mapped file")
        return _own(array)
    start = numpy.frombuffer(base, "u1").__array_interface__["data"][0]
    return _shown(base, array, start)


def _view(reducers: Reducers, array: Any, owner: Any) -> Any:
    whole = owner if owner.flags.c_contiguous else owner.T
    start = owner.__array_interface__["data"][0]
    if not whole.flags.c_contiguous or (array.dtype.hasobject and array.dtype != owner.dtype):
        reducers.rebuilt(array, "it has memory of its own and is a view no longer")
        return _own(array)
    return _shown(owner, array, start)


def _shown(owner: Any, array: Any, start: int) -> Any:
    offset = array.__array_interface__["data"][0] - start
    return array_view, (owner, array.dtype, array.shape, array.strides, offset, bool(array.flags.writeable))


@rebuilder
def array_view(
    owner: Any,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
    writeable: bool,  # noqa: FBT001 - durable data
) -> Any:
    numpy = importlib.import_module("numpy")
    whole = owner
    if isinstance(owner, numpy.ndarray) and not owner.flags.c_contiguous:
        whole = owner.T
    made = numpy.ndarray(shape, dtype, whole, offset, strides)
    if made.flags.writeable and not writeable:
        made.flags.writeable = False
    return made


def _own(array: Any) -> Any:
    if array.dtype.hasobject or not array.size or not array.dtype.itemsize:
        return array.__reduce_ex__(PROTOCOL)
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = array.copy(order="K")
    order = "C" if array.flags.c_contiguous else "F"
    # As bytes: the buffer of some types (dates) cannot be asked for otherwise.
    flat = (array if order == "C" else array.T).reshape(-1).view("u1")
    return own_array, (pickle.PickleBuffer(flat), array.dtype, array.shape, order)


@rebuilder
def own_array(memory: Any, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    numpy = importlib.import_module("numpy")
    # Not from the buffer by numpy's own function, which makes a view of another array.
    return numpy.ndarray(shape, dtype, memory, order="F" if order == "F" else "C")


def reduce_detached(_reducers: Reducers, thing: Detached) -> Any:
    return _own(thing.array)


def reduce_holder(reducers: Reducers, holder: Any) -> Any:
    """Store what pandas keeps arrays in, each array by itself."""
    from .pickler import reduce_by_hook

    numpy = sys.modules["numpy"]

    def detached(part: Any) -> Any:
        if type(part) is numpy.ndarray:
            return Detached(part)
        if type(part) is tuple:
            return tuple(map(detached, part))
        return {key: detached(value) for key, value in part.items()} if type(part) is dict else part

    reduced = reduce_by_hook(reducers, holder)
    return reduced if isinstance(reduced, str) else (reduced[0], *map(detached, reduced[1:3]), *reduced[3:])
