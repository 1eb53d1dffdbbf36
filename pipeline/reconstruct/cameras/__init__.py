"""Which camera took an image, what is known of it, and what an adjustment makes of that."""
