"""What runs a case, in a process that may die of it. Python 3.6 and its standard library: boards have no more."""
