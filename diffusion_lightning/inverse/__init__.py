"""Measurements of an image, and restorations that agree with them."""
