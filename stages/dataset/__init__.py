"""Bytes on disk to tensors and labels."""
