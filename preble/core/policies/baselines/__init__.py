"""Rules of other routers and plain ones, to compare with: one file per policy, and what several of them share."""
