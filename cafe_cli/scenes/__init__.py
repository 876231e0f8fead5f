"""A scene: image, heights and labels on one grid, whatever they were delivered as."""
