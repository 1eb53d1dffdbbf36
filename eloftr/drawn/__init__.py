"""Drawn 3D scenes: textures, light and a ray-caster that give photographs with exact depth."""
