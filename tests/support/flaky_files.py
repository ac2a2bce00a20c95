"""A storage with faults, for fsspec."""

from __future__ import annotations

import fsspec


def make_flaky() -> type:
    """Return a file system over local files whose faults are in the name: flaky://3/path."""

    class Flaky(fsspec.get_filesystem_class("file")):
        protocol = "flaky"
        root_marker = ""
        opened: dict = {}  # noqa: RUF012 - of the process, on purpose

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("flaky://")

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            failures, _, rest = path.partition("/")
            self.opened[path] = self.opened.get(path, 0) + 1
            if failures == "denied":
                raise PermissionError("denied")
            if self.opened[path] <= int(failures):
                raise ConnectionResetError("the line is down")
            return super().open("/" + rest, mode)

    return Flaky
