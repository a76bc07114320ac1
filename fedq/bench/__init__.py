"""What `fedq bench` measures: the packed kernels, and the best that other libraries do instead."""
