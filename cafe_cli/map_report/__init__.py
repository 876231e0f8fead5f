"""``cafe report``: a map on one page that needs no other file."""
