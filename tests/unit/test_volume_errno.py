"""What programs see of a volume whose contents cannot be read: an I/O error, which is not the same as 'not supported'."""

from __future__ import annotations

import errno
from contextlib import ExitStack

import pytest

from mntapi.blocks import Fault, Zero
from mntapi.errors import MntapiError
from mntapi.session.diskset import DiskSet
from mntapi.session.tree import VolumeTree
from mntapi.types import Volume
from mntapi.units import MIB
from mntapi.volumes.scan import Found
from mntapi_fuse.operations import ROOT
from mntapi_fuse.treefs import TreeFs


def test_a_volume_that_cannot_be_read_is_an_io_error() -> None:
    bad = Fault(Zero(MIB), bad=[(0, MIB)])
    volume = Volume("raw-0", "disk0", "disk", bad)
    tree = TreeFs(VolumeTree(DiskSet([], Found([volume], []), ExitStack())))
    found = tree.lookup(ROOT, b"disk0")
    with pytest.raises(MntapiError) as caught:
        list(tree.readdir(found.number))
    assert caught.value.errno == errno.EIO
    assert tree.getxattr(found.number, b"user.mntapi.reason") == b"damaged"


def test_a_volume_without_a_file_system_is_not() -> None:
    volume = Volume("raw-0", "disk0", "disk", Zero(MIB))
    tree = TreeFs(VolumeTree(DiskSet([], Found([volume], []), ExitStack())))
    with pytest.raises(MntapiError) as caught:
        list(tree.readdir(tree.lookup(ROOT, b"disk0").number))
    assert caught.value.errno == errno.EOPNOTSUPP
