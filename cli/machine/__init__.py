"""What the machine can run, and the doctor that tells."""
