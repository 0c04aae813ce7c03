"""Folders whose names are other people's modules: ``import fuse`` must find fusepy, ``import systemd`` python-systemd."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_fuse_is_a_source_root_and_no_package() -> None:
    assert list((ROOT / "fuse").glob("*.py*")) == []
    assert not (ROOT / "fuse" / "conformance" / "__init__.py").exists()


def test_systemd_holds_no_python() -> None:
    assert list((ROOT / "systemd").rglob("*.py*")) == []
