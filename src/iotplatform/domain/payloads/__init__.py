"""Bodies of devices to readings: one file per format, one row in the table of `formats`. Pure functions."""
