"""The channel `webhook`: a signed POST to an address that tenants choose, and that never is one of ours."""
