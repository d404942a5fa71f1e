"""Makes a release: one archive that installs the product in a cluster without access to the internet."""
