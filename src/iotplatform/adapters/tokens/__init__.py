"""Device tokens: JWTs signed by ES256 (python-jose with its cryptography backend)."""
