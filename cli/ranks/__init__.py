"""One model on two machines: the terminal's processes, and what a rank does in one of them."""
