"""Image matching at scale: plain stages on Arrow tables, and one module that maps them with Ray."""
