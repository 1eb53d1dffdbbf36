"""Training: synthetic views of photographs, losses, and the recipe of the bundled weights."""
