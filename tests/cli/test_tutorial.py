"""The tutorial's commands, run in its order, print what it shows."""

import re
import subprocess
from pathlib import Path

import pytest

from .kit import PATIENCE, Cli

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
#: Between the outputs of two commands of a block: nothing that a command would print.
MARK = "\x1e"


def _files(text: str) -> dict[str, str]:
    """Return the files that the page shows, by the last name mentioned before each."""
    found = {}
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        found[re.findall(r"`(\w+\.py)`", text[: match.start()])[-1]] = match[1]
    return found


def _blocks(text: str) -> list[list[tuple[str, str]]]:
    """Return each block's commands with what they print."""
    blocks = []
    for body in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        commands: list[tuple[str, str]] = []
        for line in body.splitlines(keepends=True):
            if line.startswith("$ "):
                commands.append((line[2:].rstrip("\n"), ""))
            else:
                commands[-1] = (commands[-1][0], commands[-1][1] + line)
        blocks.append(commands)
    return blocks


def _matches(shown: str, printed: str) -> bool:
    # `...` is anything within a line; on a line of its own, any lines, or none.
    pattern = "".join(
        r"(.*\n)*" if line == "...\n" else ".*".join(re.escape(part) for part in line.split("..."))
        for line in _spaced(shown).splitlines(keepends=True)
    )
    return re.fullmatch(pattern, _spaced(printed)) is not None


def _spaced(text: str) -> str:
    # Columns are as wide as the widest cell, which differs; spaces at the end of a line cannot be seen.
    return re.sub(r" +", " ", re.sub(r" +\n", "\n", text))


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.timeout(400)
def test_every_command_prints_what_the_tutorial_shows(cli: Cli) -> None:
    text = TUTORIAL.read_text()
    files = _files(text)
    assert sorted(files) == ["count.py", "pay.py", "shop.py"]
    for name, content in files.items():
        cli.write(name, content)
    bin_folder = str(Path(cli.command()[0]).parent)
    path = f"{bin_folder}:{cli.environment()['PATH']}"
    for block in _blocks(text):
        script = "".join(f"{command}\nprintf '{MARK}'\n" for command, _ in block)
        done = subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE,
            cwd=cli.folder,
            env=cli.environment(PATH=path, PYTHONPATH=""),
            check=False,
        )
        # The shell's own word about a job that was killed is no command's output.
        printed = re.sub(r"^bash: line \d+: +\d+ Killed .*\n", "", done.stdout, flags=re.MULTILINE)
        outputs = printed.split(MARK)
        assert len(outputs) == len(block) + 1, done.stdout
        for (command, shown), output in zip(block, outputs, strict=False):
            assert _matches(shown, output), f"$ {command}\n{output}\n--- the tutorial shows\n{shown}"
