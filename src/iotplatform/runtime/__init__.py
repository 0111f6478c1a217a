"""Generic machinery without a word of IoT: tasks with owners, back-off, clock."""
