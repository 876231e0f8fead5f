"""Tasks on the worker processes of a Dask cluster; no word of the domain."""
