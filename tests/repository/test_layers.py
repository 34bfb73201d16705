from pathlib import PurePosixPath

import pytest

from tests.repository.layers import BELOW, LOADED_BY_THE_GUEST, PRELOADED, ROOT, sources, violations


def test_imports_point_downward_only() -> None:
    assert [line for path in sources() for line in violations(path, (ROOT / path).read_text())] == []


def test_every_top_level_folder_is_in_the_table() -> None:
    linked = {path.name for path in (ROOT / "deploy/dev/perdure").iterdir()}
    assert linked == set(BELOW) == {path.parts[0] for path in sources()}


def test_the_files_that_the_guest_loads_exist() -> None:
    assert set(sources()) >= LOADED_BY_THE_GUEST


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("capabilities/base.py", "from perdure.engine import Client"),
        ("capabilities/base.py", "from perdure.capabilities.values import x"),
        ("capabilities/values.py", "import pydantic"),
        ("capabilities/values.py", "from .errors import BadValue"),
        ("engine/client.py", "import perdure.workers.service"),
        ("engine/client.py", "import perdure"),
        ("engine/client.py", "from perdure import workers"),
        ("engine/client.py", "from capabilities import base"),
        ("engine/store/wire.py", "from tests.store import kit"),
        ("engine/store/wire.py", "from ...capabilities import base"),
        ("engine/store/wire.py", "def f():\n    from perdure.workers import service"),
        ("workers/run.py", "from perdure.workers.messages import Hello"),
        ("workers/run.py", "from perdure.workers.guests import Guest"),
        ("workers/guest/wire.py", "import msgspec"),
        ("workers/guest/wire.py", "from ..messages import Hello"),
        ("workers/guest/wire.py", "from perdure.capabilities import values"),
        ("workers/guest/checkpoints/stream.py", "from ...messages import Hello"),
        ("workers/guest/values.py", f"{PRELOADED}\nfrom engine import ids"),
        ("workers/guest/values.py", f"{PRELOADED}\nfrom ..messages import Hello"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(violations(PurePosixPath(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("capabilities/base.py", "from .values import x\nimport pydantic"),
        ("engine/store/wire.py", "from ..records import Result\nfrom perdure.capabilities import base"),
        ("workers/run.py", "from .guest.wire import Frame\nfrom perdure.engine import ids"),
        ("workers/confine/probe_child.py", "from perdure.workers.guest import confine_kernel"),
        ("workers/guest/checkpoints/stream.py", "import pickle\nfrom ..wire import Frame"),
        ("workers/guest/values.py", f"{PRELOADED}\nfrom perdure.capabilities.values import x"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(PurePosixPath(path), source) == []
