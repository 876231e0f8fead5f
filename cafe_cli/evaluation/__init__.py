"""Accuracy of land-cover maps: confusion matrix, scores, and ``cafe evaluate``."""
