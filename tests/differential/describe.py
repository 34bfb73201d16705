"""A namespace as text that is the same in every process: values, aliases, functions, classes, what instances hold.

It runs beside the programs, inside and outside a guest, so it imports nothing that they would notice. Code that is
described is asked nothing: only types that Python brings along have their ``repr`` called.
"""

from __future__ import annotations

import re
import sys
import types
from typing import Any

__all__ = ["describe"]

#: Names that belong to the module, or to the histories of a session.
NOT_THE_PROGRAMS = frozenset({
    "__name__", "__builtins__", "__loader__", "__package__", "__spec__", "__file__", "__cached__",
    "__warningregistry__", "_", "__", "___", "_i", "_ii", "_iii", "In", "Out", "_ih", "_oh", "_exit_code", "_exception",
})  # fmt: skip
_ATOMS = (int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
#: What a class statement puts into every class, and caches.
_CLASS_OWN = frozenset({"__dict__", "__weakref__", "_abc_impl", "__module__"})
_LONG = 400


def describe(namespace: dict[str, Any]) -> list[Any]:
    """Return the program's names, in order, each with what it holds."""
    describer = _Describer(namespace)
    names = [name for name in namespace if name not in NOT_THE_PROGRAMS]
    # A module has its annotations from the beginning, a session from the first that there is.
    names.sort(key=lambda name: name if name in ("__annotations__", "__doc__") else "")
    return [[name, describer.of(namespace[name])] for name in names]


class _Describer:
    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS or kind is bool:
            return _shortened(repr(value))
        if kind in (tuple, frozenset) and all(type(each) in _ATOMS for each in value):
            return [kind.__name__, *sorted(map(repr, value))] if kind is frozenset else [kind.__name__, repr(value)]
        if value is self._namespace:
            return "globals()"
        number = self._numbers.get(id(value))
        if number is not None:
            return f"again {number}"
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        try:
            return self._made_of(value, kind)
        except Exception as error:
            return f"{_name(kind)}: {type(error).__name__}: {error}"

    def _made_of(self, value: Any, kind: type) -> Any:
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        for reader in (self._callable, self._suspended, self._exception, self._asynchronous, self._container):
            found = reader(value, kind)
            if found is not None:
                return found
        if getattr(kind, "__module__", "") != "__main__":
            return [_name(kind), _shortened(_ADDRESS.sub("0x", repr(value)))]
        return [_name(kind), self._held(value, kind)]

    def _function(self, function: types.FunctionType) -> Any:
        code = function.__code__
        cells = [self._cell(cell) for cell in function.__closure__ or ()]
        if function.__module__ != "__main__":
            return f"function {function.__module__}.{function.__qualname__}"
        return [
            f"function {function.__qualname__} line {code.co_firstlineno} flags {code.co_flags & ~0x4000000:#x}",
            self.of(function.__doc__), self.of(function.__defaults__), self.of(function.__kwdefaults__),
            [code.co_name, repr(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]), repr(code.co_freevars)],
            [[name, self.of(each)] for name, each in function.__annotations__.items()], cells, self.of(vars(function)),
            function.__globals__ is self._namespace,
        ]  # fmt: skip

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:
            return "empty"

    def _class(self, cls: type) -> Any:
        if cls.__module__ != "__main__":
            return f"class {_name(cls)}"
        names = [name for name in vars(cls) if name not in _CLASS_OWN]
        names.sort(key=lambda name: name if name[:2] == "__" else "")  # whose places say nothing
        own = [[name, self.of(vars(cls)[name])] for name in names]
        return [f"class {_name(cls)}", [_name(base) for base in cls.__mro__], _name(type(cls)), own]

    def _callable(self, value: Any, _kind: type) -> Any:
        if isinstance(value, property):
            return ["property", self.of(value.fget), self.of(value.fset), self.of(value.fdel)]
        if isinstance(value, (classmethod, staticmethod)):
            return [_name(type(value)), self.of(value.__func__)]
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, types.CodeType):
            return f"code {value.co_qualname} line {value.co_firstlineno}"
        functools = sys.modules.get("functools")
        if functools and isinstance(value, functools.partial):
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        return None

    def _suspended(self, value: Any, kind: type) -> Any:
        for prefix, types_ in (
            ("gi", types.GeneratorType),
            ("cr", types.CoroutineType),
            ("ag", types.AsyncGeneratorType),
        ):
            if isinstance(value, types_):
                frame = getattr(value, f"{prefix}_frame")
                locals_ = {} if frame is None else dict(frame.f_locals)
                return [f"{_name(kind)} {value.__qualname__}", frame and frame.f_lineno, self.of(locals_)]
        if isinstance(value, types.FrameType):
            return f"frame {value.f_code.co_qualname} line {value.f_lineno}"
        return None

    def _exception(self, value: Any, kind: type) -> Any:
        if not isinstance(value, BaseException):
            return None
        lines = []
        step = value.__traceback__
        while step is not None:
            lines.append([step.tb_frame.f_code.co_name, step.tb_lineno])
            step = step.tb_next
        cause = [self.of(value.__cause__), self.of(value.__context__)]
        return [_name(kind), self.of(value.args), self._held(value, kind), lines, cause]

    def _asynchronous(self, value: Any, kind: type) -> Any:
        asyncio = sys.modules.get("asyncio")
        contextvars = sys.modules.get("contextvars")
        threading = sys.modules.get("threading")
        if contextvars and isinstance(value, contextvars.ContextVar):
            return ["ContextVar", value.name, self.of(value.get(None))]
        if threading and isinstance(value, threading.Thread):
            return ["Thread", value.name, value.is_alive(), value.daemon]
        if asyncio and isinstance(value, asyncio.Future):
            if not value.done() or value.cancelled():
                return [_name(kind), "cancelled" if value.cancelled() else "pending"]
            error = value.exception()
            return [_name(kind), self.of(value.result() if error is None else error)]
        return None

    def _container(self, value: Any, kind: type) -> Any:
        if isinstance(value, (dict, types.MappingProxyType)):
            pairs = [pair for pair in dict.items(dict(value)) if pair[0] != "__builtins__"]
            inside = [[self.of(key), self.of(each)] for key, each in pairs]
        elif isinstance(value, (list, tuple)):
            inside = [
                self.of(each) for each in (list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value))
            ]
        elif isinstance(value, (set, frozenset)):
            inside = sorted((self.of(each) for each in value), key=repr)
        else:
            return None
        held = self._held(value, kind) if kind.__module__ == "__main__" else []
        return [_name(kind), inside, held]

    def _held(self, value: Any, kind: type) -> list[Any]:
        held = []
        try:
            own = object.__getattribute__(value, "__dict__")
        except AttributeError:
            own = {}
        held += [[name, self.of(each)] for name, each in dict(own).items()]
        for base in kind.__mro__:
            for name, slot in vars(base).items():
                if isinstance(slot, types.MemberDescriptorType) and base.__module__ == "__main__":
                    try:
                        held.append([name, self.of(slot.__get__(value, kind))])
                    except AttributeError:
                        held.append([name, "unset"])
        return held


def _name(kind: type) -> str:
    return f"{type.__getattribute__(kind, '__module__')}.{type.__getattribute__(kind, '__qualname__')}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}... {len(text)}"
