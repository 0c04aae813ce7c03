"""Writing what a disk holds to a new file: raw, QCOW2, stream-optimized VMDK, VHDX.

Not here: reading formats (``mntapi.images``), and anything that changes a file that is there. Start reading at ``convert.py``;
then ``batches.py`` (what is read), ``newfile.py`` (where it goes), ``formats.py`` (the table), and a writer: ``raw.py`` is the
smallest. Always true: holes are neither read nor written; the new file has its name only when it is whole and on the medium;
whatever goes wrong, nothing of it is left.
"""

from mntapi.export.convert import Converted, ConvertOptions, convert
from mntapi.export.formats import FORMATS

__all__ = ["FORMATS", "ConvertOptions", "Converted", "convert"]
