"""Training one recipe in several variants, several seeds each, and telling the difference."""
