"""For the site, which shows the function `pipeline.match` and not the room of that name."""

from typing import Any

import griffe


class PublicFunctions(griffe.Extension):
    """Put the functions that `pipeline/__init__.py` imports where rooms have their names."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Inspect the package alone, because griffe lets a submodule hide a function."""
        if pkg.path != "pipeline":
            return
        for name, member in griffe.inspect("pipeline", filepath=pkg.filepath).members.items():
            module, _, function = getattr(member, "target_path", "").rpartition(".")
            if module.startswith("pipeline.front."):
                path = pkg.filepath.parents[1] / f"{module.replace('.', '/')}.py"
                pkg.set_member(name, griffe.inspect(module, filepath=path).members[function])
