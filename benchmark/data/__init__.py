"""Audio files, manifests, label budgets; importers of other formats."""
