"""Two machines that run one model: who they are, how they meet, and when one is given up."""
