"""Make a sparse model exact: rounds of measuring its tracks and adjusting it."""
