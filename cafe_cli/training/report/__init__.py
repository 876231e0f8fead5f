"""``report.html``: scores, curves and the worst tiles of a training run on one page."""
