"""The study file as typed models, the grid it spans, and the tree of recipes that the DAG is made of."""
