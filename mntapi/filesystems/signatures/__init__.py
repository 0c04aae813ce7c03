"""How each kind of volume is recognised: the table, and one small module per family that checks what a magic promises.

Not here: reading files out of them. Start reading at ``table.py``; ``probe.py`` above walks it. Always true: a probe reads
a bounded number of bytes, checks every number before use, and answers ``Found`` or None; a structure that goes past
the end of the volume is None (``CutOff``), an unreadable sector raises.
"""
