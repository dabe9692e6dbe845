"""An async cache for predictions that age faster as kickoff nears."""
