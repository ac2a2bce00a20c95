"""Pretraining, evaluation and export of CCL checkpoints; used from a clone, never installed.

Depends on ``ccl_hub`` and is never imported by it. Start with ``python -m training.pretrain``.
"""
