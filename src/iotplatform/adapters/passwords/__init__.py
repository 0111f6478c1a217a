"""Passwords of people, hashed by argon2id."""
