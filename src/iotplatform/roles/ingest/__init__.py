"""The door: readings are decoded, checked, admitted, put into blocks, and published."""
