"""A new classification head that starts as a linear probe, and weights of the classes, measured."""
