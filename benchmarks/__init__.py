"""Speed, measured side by side: every script prints and records machine and command."""
