"""Does a change of the code change what it does? Two checkouts are compared on one machine."""
