"""Scenes: the optical image, heights and labels of one place, on one grid."""
