"""How fast the parts are, beside other ways to do the same."""
