"""Metrics and logging: the catalogue of names, and their set-up."""
