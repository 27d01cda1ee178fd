"""A bundle over whole folders: every row is answered exactly once, whatever the run is killed by, and the same call goes on."""
