"""Models in the world: metres of the earth by positions or control points, and which way is up."""
