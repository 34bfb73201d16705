"""Tables and texts of pyarrow, which pandas holds its own in where it is installed."""

from __future__ import annotations

import pytest

from .kit import Session


@pytest.mark.python
def test_texts_of_pyarrow(session: Session) -> None:
    session.run(
        "import pandas as pd, pyarrow as pa\n"
        "texts = pd.Series(['a', None, 'ä' * 50_000] * 3, dtype='string[pyarrow]'); alias = texts\n"
        "frame = pd.DataFrame({'t': texts, 'n': pd.array([1, None, 3] * 3, dtype='int64[pyarrow]')})\n"
        "table = pa.table({'x': list(range(50_000)), 'y': ['u'] * 50_000}); part = table['x'].chunk(0)[10:20]\n"
        "usual = pd.Series(['x', 'y'])"
    )
    report = session.run(
        "assert texts is alias and texts.dtype == 'string[pyarrow]' and texts[0] == 'a' and pd.isna(texts[1])\n"
        "assert len(texts[8]) == 50_000 and frame['t'].tolist()[0] == 'a' and frame['n'].sum() == 12\n"
        "assert table.num_rows == 50_000 and table['y'][7].as_py() == 'u' and part.to_pylist() == list(range(10, 20))\n"
        "frame.loc[0, 't'] = 'z'; assert texts[0] == 'a' and usual.tolist() == ['x', 'y']"
    ).loaded
    assert {entry["status"] for entry in report.values()} == {"kept"}, report
