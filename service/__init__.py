"""The reference prediction service: a real model behind the cache engine, over HTTP."""
