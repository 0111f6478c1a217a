"""One package for each technology; each driver has its only home here."""
