"""The study file as typed models, its known names, and the rules by which stages follow each other."""
