"""Prediction of maps by sliding windows: ``cafe predict``."""
