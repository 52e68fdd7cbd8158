"""A model registry on plain files: sealed versions and an append-only commit log."""
