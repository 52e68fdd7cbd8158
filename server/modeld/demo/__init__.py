"""The demo: real prices, two trained models, a live swap, a model that kills its loader, a rollback."""
