"""Compressed disks: ``disk.raw.gz``, ``disk.vmdk.xz``, ``disk.qcow2.zst``, read in place by an index.

What it is not: an unpacker to disk. Start reading at ``xz.py`` (the format that has its own index), then ``store.py`` (what
is done where there is none), ``gz.py`` and ``zst.py``, and ``cache.py`` (where an index is kept).

    xz in blocks, zstd in frames   the file's own index; a block or frame is unpacked when it is read
    other xz and zstd, small gzip  unpacked once and packed again in small pieces, which are kept in memory (``store.py``)
    large gzip                     points from which it can be unpacked, made by the package indexed_gzip (``gz.py``)

The index of the last two costs one pass over the file and is then kept in the cache folder. A worker that may open no file
gets the kept index through the opener, like any file; where there is none it makes its own and cannot keep it. So to open a
large file first with any command that reads in its own process (``mntapi info``) makes later mounts quick.

Always true: checksums of the container are compared before a byte is handed out. A stream that is cut off is readable up to
the cut and raises there; one that is damaged raises for the whole block, frame or gzip member, because nothing tells where
the wrong bytes begin. Memory is bounded, whatever the file says of itself.
"""
