"""Bridges to other people's models. Contract: a dry run through the bridge equals the foreign forward; detaching leaves
no trace. Each file speaks of one library, which it imports inside of functions, if at all."""
