"""What all HTTP edges of a process share: problem documents, the check of `Host`, the OpenAPI document."""
