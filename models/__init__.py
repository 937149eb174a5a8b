"""The models that ship, one folder each, and the catalogue that finds and checks them."""
