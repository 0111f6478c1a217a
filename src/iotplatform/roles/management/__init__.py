"""Management: organizations, devices, rules, channels, and what became of their readings, over HTTP."""
