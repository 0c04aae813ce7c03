"""The command line: words in, a page or JSON out. One module a verb; ``main.py`` has the table of verbs and the exit codes.

Not here: anything another program could want; that is in ``mntapi.session`` and ``mntapi.restore``. Start at ``main.py``.
Always true: an error is one line ``error: ...`` and at most one ``hint: ...`` on stderr, never a traceback; nothing of a
guest reaches a terminal unescaped.
"""
