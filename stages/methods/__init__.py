"""Pretraining methods, a file each: its views, its network, its loss and its settings, put together from the rooms."""
