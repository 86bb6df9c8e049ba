"""Adapters for frameworks. They import public names of ltm_store only."""
