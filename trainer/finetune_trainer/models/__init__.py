"""Model folders: checked, fetched, loaded, saved, verified, described."""
