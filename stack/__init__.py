"""How the parts are started together, with Docker or without."""
