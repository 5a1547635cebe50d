"""Module -> Module: quantise, prune, experts.

A part is a frozen dataclass; `part(model) -> model` hands back a changed copy in evaluation mode and leaves the
original as it was, unless `inplace=True`; layers are chosen by role (core/roles.py), `skip` names those to leave alone.
Contract:
- the neutral setting is exact: weights that already have the compressed form pass through bit for bit;
- nothing matched raises, and so do layers that carry hooks or a seam, which a copy would lose without a word;
- `part.reported_bytes(model)` equals the bytes of the tensors that `state_dict()` writes;
- `part(fresh).load_state_dict(saved)` gives the same outputs bit for bit, also where `fresh` is on the meta device;
- a sample's output does not depend on its neighbours in the batch.
"""
