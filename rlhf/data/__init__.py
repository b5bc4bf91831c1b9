"""Records: reading and checking them, cleaning and mixing, and turning them into token arrays."""
