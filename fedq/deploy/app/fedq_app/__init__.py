"""A Flower App around the installed fedq."""
