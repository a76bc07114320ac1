"""What people look at: the screen of a run, pictures and tables of many. Knows records, never torch."""
