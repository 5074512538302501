"""`dsv4-chat serve`: one model for programs that speak HTTP."""
