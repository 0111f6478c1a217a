"""Secrets that the database keeps, and that nobody reads there."""
