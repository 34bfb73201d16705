"""Who may import whom, as a table, and what in a source file breaks it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent.parent

#: What each top-level folder may import of the others.
BELOW = {
    "capabilities": set[str](),
    "engine": {"capabilities"},
    "workers": {"capabilities", "engine"},
}

GUEST = PurePosixPath("workers/guest")

#: A file of the guest that says this is for the host, or finds what it imports in place already.
PRELOADED = "# re-export for the host; the guest gets it preloaded"

#: Files outside the guest's folder that the guest loads by path: they stand alone.
LOADED_BY_THE_GUEST = {PurePosixPath("capabilities/values.py")}


def sources() -> Iterator[PurePosixPath]:
    """Every Python file of the three folders, from the root."""
    for folder in BELOW:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield PurePosixPath(path.relative_to(ROOT).as_posix())


def violations(path: PurePosixPath, source: str) -> list[str]:
    """Say of each import in this source that the table forbids which one it is, and why."""
    alone = path in LOADED_BY_THE_GUEST
    standard_only = alone or (path.is_relative_to(GUEST) and PRELOADED not in source)
    # A relative import may climb as far as the folder that must hold together: the guest's, or the top-level one.
    home = 0 if alone else len(path.parent.parts) - (len(GUEST.parts) if path.is_relative_to(GUEST) else 1) + 1
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > home:
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}: leaves its folder; import absolutely")
            continue
        found += [
            f"{path}:{node.lineno}: {name}: {why}"
            for name in _modules(node)
            if (why := _refusal(path.parts[0], name, standard_only=standard_only))
        ]
    return found


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.module == "perdure":
        return [f"perdure.{alias.name}" for alias in node.names]
    return [node.module or ""]


def _refusal(folder: str, module: str, *, standard_only: bool) -> str | None:
    first, _, rest = module.partition(".")
    target = rest.partition(".")[0]
    if first in BELOW or first in {"tests", "deploy"}:
        return f"not a name outside this repository; import perdure.{module}"
    if standard_only:
        return None if first in sys.stdlib_module_names else "the guest has the standard library only"
    if first != "perdure":
        return None
    if target == folder and not f"{module}.".startswith(
        "perdure.workers.guest."
    ):  # also run by name, in other processes
        return "relative inside a folder"
    return None if target in {folder, *BELOW[folder]} else f"{folder} stands below {target or 'perdure'}"
