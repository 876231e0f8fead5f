"""``report.html``: a training run on one page."""
