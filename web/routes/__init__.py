"""The views, a module for each group of routes. Views parse a request, call the store and answer."""
