"""Files in the cache: fetched, converted, counted."""
