"""Files of images: which format one has, what opens it, and its metadata."""
