"""Many pictures labelled, one after the other: which they are, where results go, and the work between."""
