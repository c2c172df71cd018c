"""The weights that never travel, which all sides must have alike."""

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.federated.client_work import ClientWork


def frozen_digest(module: "ClientWork") -> str:
    """SHA-256 of names and values of what is neither sent nor a client's own: the same for all, and never changed."""
    changing = module.communicated().keys() | module.personal().keys()
    digest = sha256()
    for name, tensor in sorted(module.local.state_dict().items()):
        if name not in changing:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
    return digest.hexdigest()
