"""What tests share: the allowances of the detector of blocking calls, and a platform that runs as a process."""
