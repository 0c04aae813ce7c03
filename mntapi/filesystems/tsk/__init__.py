"""FAT, exFAT, HFS+, ISO 9660 and UFS through The Sleuth Kit (pytsk3).

Not here: ext and NTFS, which are read directly, because The Sleuth Kit tells neither inode flags nor an initialised size, goes
on after some errors, and replaces what it cannot decode in a name. Start reading at ``image.py`` (how its errors become ours),
then ``filesystem.py``.
Known: a damaged UFS inode of 2^50 bytes and more keeps the C library busy without end; only ending its process helps.
Always true: one call into the C library at a time per volume; an error of the storage below comes out as it went in, and no
answer is believed during which one happened; nothing deleted, virtual or orphaned is among the names.
"""
