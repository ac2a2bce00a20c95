"""Small helpers without a subject of their own: files, locks, checks, extras, the machine."""
