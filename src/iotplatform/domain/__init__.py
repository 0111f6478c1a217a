"""What the platform speaks of: frozen structs and pure functions. Time is an argument; nothing here does I/O."""
