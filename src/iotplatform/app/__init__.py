"""The composition root: settings, which role needs what, start-up and drain, the HTTP edges, health."""
