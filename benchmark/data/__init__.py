"""Audio files and their headers, manifests, splits, label budgets; importers of other formats."""
