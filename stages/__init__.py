"""The study: verbs are stages, nouns are rooms.

Imports go one way: stage modules -> rooms -> `config`, `artifacts`. No stage imports a stage and no room imports
another room; objects are passed in. `tests/test_architecture.py` holds this.
"""
