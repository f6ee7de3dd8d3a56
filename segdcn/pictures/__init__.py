"""Arrays in, pictures out: nothing here knows a network, a file or a logger."""
