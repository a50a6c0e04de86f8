"""The rules of other routers, and plain ones, to compare with: one file per policy, and the parts that they share."""
