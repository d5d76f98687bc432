"""Object storage: objects, what goes wrong with them, and the bundles published there."""
