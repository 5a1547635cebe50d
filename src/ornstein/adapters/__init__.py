"""Low-rank, control and concept adapters: small trained parts beside a frozen network.

A part is a frozen dataclass; `part(model) -> handle` attaches it and hands back an nn.Module whose parameters are all
that trains; the model's own modules, state dict and fingerprint stay as they were; `handle.detach()` takes it off.
Contract:
- zero-init exact: right after attaching, the model answers bit for bit as before;
- only the adapter trains: every other parameter is frozen, and gets its own `requires_grad` back on detach;
- merge, where there is one, equals the attached adapter to the rounding of floats, and unmerge is bit-exact;
- it works on float and on quantised layers, which are known by their shape (in_features, out_features), not by class;
- nothing matched raises; merging twice, merging into whole numbers and files of another model are refused.
"""
