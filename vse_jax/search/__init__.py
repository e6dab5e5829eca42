"""Search in galleries: exact, by an index, and with a correction of hubs."""
