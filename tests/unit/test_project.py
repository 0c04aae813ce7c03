"""The project as a whole: the checks of scripts/check, and the promises of its documents that a program can check."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
CHECKS = {
    "format": ["ruff", "format", "--check", "--quiet", "."],
    "rules": ["ruff", "check", "--quiet", "."],
    "types": ["mypy", "--no-error-summary"],
    "layers": ["lint-imports"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str) -> None:
    program, *arguments = CHECKS[name]
    if not (TOOLS / program).exists():
        pytest.skip(f"{program} is not installed here")
    done = subprocess.run([TOOLS / program, *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_check_and_the_tests_run_the_same() -> None:
    script = (TOP / "scripts/check").read_text()
    assert all(f"{arguments[0]} " in script for arguments in CHECKS.values())


def test_import_is_light() -> None:
    """Nothing but the standard library and the package itself: heavy things are imported when first used."""
    code = "import sys; before = set(sys.modules); import mntapi; print(*(set(sys.modules) - before))"
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.split()
    assert {name for name in added if name.split(".")[0] == "mntapi"} == {"mntapi"}
    assert not {"pytsk3", "click", "rich", "psutil", "pyVmomi", "mfusepy", "ctypes", "subprocess"} & set(added)


def test_reading_commands_import_no_more_than_they_need() -> None:
    code = "import sys; from mntapi.cli.main import run; run(['info', '--help']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "psutil", "pyVmomi", "mfusepy", "pytsk3", "ctypes"} & set(modules)


def test_the_public_api_is_there_and_short() -> None:
    import mntapi

    assert all(getattr(mntapi, name) is not None for name in mntapi.__all__)
    assert set(mntapi.__all__) == set(mntapi._HOMES)
    with pytest.raises(AttributeError):
        _ = mntapi.absent


def test_every_verb_is_in_the_readme() -> None:
    from mntapi.cli.main import EXIT_CODES, VERBS

    readme = (TOP / "README.md").read_text()
    assert all(f"`mntapi {verb}" in readme for verb in VERBS)
    codes = re.search(r"Exit codes: (.*?)\.", readme, re.DOTALL)
    assert codes is not None and re.findall(r"\d+", codes[1]) == [str(code) for code, _ in EXIT_CODES]


def test_architecture_is_at_most_200_lines_and_names_what_exists() -> None:
    text = (TOP / "ARCHITECTURE.md").read_text()
    assert text.count("\n") <= 200
    for folder in ("blocks", "images", "volumes", "filesystems", "kernel", "restore", "session", "cli"):
        assert f"  {folder}/" in text and (TOP / "mntapi" / folder / "__init__.py").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_nothing_large_or_generated_is_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = TOP / name
        assert not name.endswith((".pyc", ".vmdk", ".raw")) and (not path.exists() or path.stat().st_size < 1 << 21), name
