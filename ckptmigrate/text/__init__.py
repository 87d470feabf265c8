"""What people read in a terminal: sentences and commands, with nothing smuggled into them."""
