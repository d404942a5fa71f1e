"""Policies veto or end: one small file each, `check(turn) -> Decision | None`. Pure."""
