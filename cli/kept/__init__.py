"""What the chat program keeps on the disk, and what it writes for others."""
