"""For the site, which shows the function `pipeline.match` and not the room of that name."""

from typing import Any

import griffe


class PublicFunctions(griffe.Extension):
    """Put the functions of `pipeline/__init__.py` in the place of rooms of the same names."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Inspect the package alone, because griffe lets a submodule hide a function."""
        if pkg.path == "pipeline":
            for name, member in griffe.inspect("pipeline", filepath=pkg.filepath).members.items():
                if not member.is_alias and member.is_function:
                    pkg.set_member(name, member)
