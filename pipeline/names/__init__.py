"""Names in lists: which photograph a name means that another program wrote."""
