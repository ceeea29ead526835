"""Use cases: what a person, a program or the clock may ask of a project. Each opens its transactions here."""
