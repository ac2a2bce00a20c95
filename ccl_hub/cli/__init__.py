"""The commands ``ccl-embed`` and ``ccl-hub``: arguments in, messages out."""
