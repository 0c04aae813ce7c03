"""FAT, exFAT, HFS+ and ISO 9660 through The Sleuth Kit (pytsk3).

Not here: ext, NTFS and UFS, which are read directly, because The Sleuth Kit tells neither inode flags nor an initialised size,
goes on after some errors, replaces what it cannot decode in a name, and follows the block map of a damaged UFS inode for hours.
Start reading at ``image.py`` (how its errors become ours), then ``filesystem.py``.
Always true: one call into the C library at a time per volume; an error of the storage below comes out as it went in, and no
answer is believed during which one happened; nothing deleted, virtual or orphaned is among the names.
"""
