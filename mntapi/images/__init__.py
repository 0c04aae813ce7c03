"""Container formats: files in, the bytes a guest saw out (``Image.blocks``).

One format, one module or folder, each with ``open_image(file, chain) -> Image``; ``formats.py`` has the table that picks one by
content. Not here: partitions and file systems, and any opening of paths: a format asks its ``Chain`` for the files it names.
Start reading at ``formats.py``. Always true: files are only read; an image's blocks own every file of their chain, and
closing them closes all; what cannot be decoded raises and never reads as zeros.
"""
