"""How an op is registered with torch: argument checks, schemas, dispatch of eager calls."""
