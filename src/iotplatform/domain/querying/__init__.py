"""What can be asked of the history of readings; pure, and the same for every store."""
