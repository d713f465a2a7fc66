"""Every rule of the simulation, broken once."""
