"""Modules: no data, no loss."""
