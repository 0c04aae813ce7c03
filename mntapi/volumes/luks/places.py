"""Where LUKS headers are, and what they begin with.

Source: LUKS On-Disk Format Specification 1.2.3, section 2; LUKS2 On-Disk Format Specification 1.1.0, section 2.
"""

from __future__ import annotations

from mntapi.units import KIB

MAGIC = b"LUKS\xba\xbe"
HEAD = 4096
"""Bytes of the binary part of a LUKS2 header; that of LUKS1 is shorter."""
SECOND_MAGIC = b"SKUL\xba\xbe"
SIZES = tuple((16 * KIB) << step for step in range(9))
"""Bytes that one copy of a LUKS2 header may have, 16 KiB to 4 MiB; the second lies behind the first."""
