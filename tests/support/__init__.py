"""What several tests use: tiny models and bundles, clients, browsers."""
