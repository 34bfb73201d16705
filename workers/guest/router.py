"""How a submission will run, told from its tree without running anything: a hint, on which nothing depends.

1. What decides whether a statement runs on the loop is its code object's flags (compiler.py), never this.
2. Names are followed as Python binds them: aliases, ``from`` imports and rebinding, in the order of the source; a
   function sees what the module has bound by its end.
"""

from __future__ import annotations

import ast
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Mode", "Route", "route", "route_of"]

#: Blocking calls that are named; the rest is counted out.
MAX_NAMED = 20

#: Modules whose use is input and output that blocks.
_MODULES = (
    "ftplib",
    "http.client",
    "imaplib",
    "psycopg",
    "psycopg2",
    "pymongo",
    "pymysql",
    "redis",
    "requests",
    "smtplib",
    "socket",
    "sqlite3",
    "subprocess",
    "urllib.request",
    "urllib3",
)
#: Functions that block, of modules that mostly do not.
_FUNCTIONS = frozenset({"input", "open", "io.open", "os.popen", "os.system", "os.wait", "os.waitpid", "time.sleep"})
_BUILTINS = frozenset({"input", "open"})

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Mode(StrEnum):
    """The five ways."""

    TOP_LEVEL_AWAIT = "TOP_LEVEL_AWAIT"
    ASYNC_DEF = "ASYNC_DEF"
    BLOCKING_SYNC = "BLOCKING_SYNC"
    SIMPLE_SYNC = "SIMPLE_SYNC"
    UNKNOWN = "UNKNOWN"


class Route(NamedTuple):
    """A submission's mode, and what in it blocks its thread, by dotted name, in the order of the source."""

    mode: Mode
    blocking: tuple[str, ...] = ()


def route(source: str) -> Route:
    """Return how a source will run; UNKNOWN is code that does not compile."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree = compile(source, "<route>", "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        compile(tree, "<route>", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Route(Mode.UNKNOWN)
    return route_of(tree)


def route_of(module: ast.Module) -> Route:
    """Return how a module that compiles will run."""
    walk = _Walk()
    walk.module(module)
    blocking = tuple(dict.fromkeys(walk.blocking))[:MAX_NAMED]
    if walk.awaits:
        return Route(Mode.TOP_LEVEL_AWAIT, blocking)
    if walk.defines_async:
        return Route(Mode.ASYNC_DEF, blocking)
    return Route(Mode.BLOCKING_SYNC if blocking else Mode.SIMPLE_SYNC, blocking)


class _Scope:
    """Names bound so far: to a dotted name that is known, or to None for anything else."""

    def __init__(
        self, outer: _Scope | None = None, hidden: frozenset[str] = frozenset(), *, lazy: bool = False
    ) -> None:
        self.outer = outer
        #: Whether it is a generator expression's.
        self.lazy = lazy
        self.names: dict[str, str | None] = dict.fromkeys(hidden)

    def find(self, name: str) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return name if name in _BUILTINS else None


class _Item(NamedTuple):
    """A node to look at, in a scope; ``runs`` if the module's own code runs it. ``binds`` is done after its value."""

    node: ast.AST
    scope: _Scope
    runs: bool
    binds: bool = False


class _Walk:
    """A walk in the order of the source, with a stack of its own: a tree may be deeper than Python's."""

    def __init__(self) -> None:
        self.awaits = False
        self.defines_async = False
        self.blocking: list[str] = []
        self._stack: list[_Item] = []
        self._later: list[tuple[list[ast.AST], _Scope]] = []

    def module(self, module: ast.Module) -> None:
        scope = _Scope()
        self._push(module.body, scope, runs=True)
        self._drain()
        while self._later:
            body, inner = self._later.pop(0)
            self._push(body, inner, runs=False)
            self._drain()

    def _push(self, nodes: Sequence[ast.AST], scope: _Scope, *, runs: bool) -> None:
        self._stack.extend(_Item(node, scope, runs) for node in reversed(nodes))

    def _drain(self) -> None:
        while self._stack:
            item = self._stack.pop()
            if item.binds:
                self._bind(item.node, item.scope)
            else:
                self._look(item)

    def _look(self, item: _Item) -> None:
        node, scope, runs = item.node, item.scope, item.runs
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node, scope, runs=runs)
            case ast.ClassDef():
                scope.names[node.name] = None
                self._push(node.body, _Scope(scope), runs=False)
                self._push([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], scope, runs=runs)
            case ast.GeneratorExp():
                # Its first iterable is evaluated in the scope outside. An await within makes the module a coroutine
                # too, as CPython has it, unless it is in a generator within a generator.
                first, *others = node.generators
                inner = _Scope(scope, frozenset(_stored(node)), lazy=True)
                within = runs and not scope.lazy
                self.awaits |= within and _suspends(first)
                self._push([node.elt, *first.ifs, *others], inner, runs=within)
                self._push([first.iter], scope, runs=runs)
            case ast.ListComp() | ast.SetComp() | ast.DictComp():
                self._children(node, _Scope(scope, frozenset(_stored(node))), runs=runs)
            case ast.Assign() | ast.AnnAssign() | ast.NamedExpr():
                self._stack.append(_Item(node, scope, runs, binds=True))
                self._children(node, scope, runs=runs)
            case ast.Name(ctx=ast.Store() | ast.Del()):
                scope.names[node.id] = None
            case ast.ExceptHandler(name=str(name)):
                scope.names[name] = None
                self._children(node, scope, runs=runs)
            case ast.Call():
                self._call(node, scope)
                self._children(node, scope, runs=runs)
            case _:
                self.awaits |= runs and _suspends(node)
                self._children(node, scope, runs=runs)

    def _children(self, node: ast.AST, scope: _Scope, *, runs: bool) -> None:
        self._push(list(ast.iter_child_nodes(node)), scope, runs=runs)

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: _Scope, *, runs: bool
    ) -> None:
        arguments = node.args
        self.defines_async |= isinstance(node, ast.AsyncFunctionDef)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        parameters = {each.arg for each in ast.walk(arguments) if isinstance(each, ast.arg)}
        shared = {name for each in body for name in _global_names(each)}
        stored = {name for each in body for name in _stored(each)}
        self._later.append((body, _Scope(scope, frozenset((parameters | stored) - shared))))
        evaluated = [*arguments.defaults, *(each for each in arguments.kw_defaults if each is not None)]
        if isinstance(node, _FUNCTION):
            scope.names[node.name] = None
            evaluated = [*node.decorator_list, *evaluated]
        self._push(evaluated, scope, runs=runs)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: _Scope) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                path = alias.name
                top = path.partition(".")[0]
                scope.names[alias.asname or top] = path if alias.asname else top
            elif node.level:
                scope.names[alias.asname or alias.name] = None
                continue
            else:
                path = f"{node.module}.{alias.name}"
                scope.names[alias.asname or alias.name] = path
            if _in_module(path):
                self.blocking.append(path)

    def _bind(self, node: ast.AST, scope: _Scope) -> None:
        """Follow ``rest = time.sleep``; any other assignment has unbound its targets as they were seen."""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        path = _dotted(value, scope) if isinstance(value, ast.Name | ast.Attribute) else None
        for target in targets:
            if isinstance(target, ast.Name):
                scope.names[target.id] = path

    def _call(self, node: ast.Call, scope: _Scope) -> None:
        path = _dotted(node.func, scope)
        if path is not None and (path in _FUNCTIONS or _in_module(path)):
            self.blocking.append(path)


def _dotted(node: ast.AST, scope: _Scope) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    root = scope.find(node.id) if isinstance(node, ast.Name) else None
    return None if root is None else ".".join((root, *reversed(parts)))


def _in_module(path: str) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in _MODULES)


def _suspends(node: ast.AST) -> bool:
    if isinstance(node, ast.comprehension):
        return bool(node.is_async)
    return isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is in it, but for the insides of other functions and classes."""
    stack = [node]
    while stack:
        each = stack.pop()
        yield each
        if not isinstance(each, (*_FUNCTION, ast.Lambda, ast.ClassDef)):
            stack += ast.iter_child_nodes(each)


def _stored(node: ast.AST) -> set[str]:
    names = {each.id for each in _own(node) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)}
    return names | {each.name for each in _own(node) if isinstance(each, (*_FUNCTION, ast.ClassDef))}


def _global_names(node: ast.AST) -> set[str]:
    return {name for each in _own(node) if isinstance(each, ast.Global | ast.Nonlocal) for name in each.names}
