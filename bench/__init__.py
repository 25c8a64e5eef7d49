"""Measurements: each module answers `measure(runs)` with records (see record.py)."""
