"""The scheduling, pure: no I/O, no clock, no global random numbers. `now` is an argument, in seconds."""
