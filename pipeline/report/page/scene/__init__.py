"""The models of a page: what `assets/scene.js` shows of them, as JSON."""

from pipeline.report.page.scene.compare import compared_data
from pipeline.report.page.scene.data import scene_data

__all__ = ["compared_data", "scene_data"]
