"""What computes a definition faster on one platform, beside the plain definition."""
