"""Distributed training: processes, collectives and synchronised batch normalisation."""
