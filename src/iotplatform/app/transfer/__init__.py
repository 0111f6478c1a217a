"""One organization as a file, and a file as an organization."""
