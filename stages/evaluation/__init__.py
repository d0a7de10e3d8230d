"""Evaluation: numbers and figures from arrays."""
