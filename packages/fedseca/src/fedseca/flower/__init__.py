r"""Every rule of this package as a strategy of Flower's Message API, for any Flower project.

.. code-block:: python

    strategy = RobustStrategy(FedSECA(), min_clients=5, state_file="server.safetensors")
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=20)

Clients stay as they are: they upload weights in one ArrayRecord and ``num-examples`` in one MetricRecord.

**Who is who.** Rules break ties by client, draw lots in the order of clients, and some remember each client, so the
rows of a round are sorted by a number that stays with the client. Where most clients of the first round send the metric
``partition-id``, that is their number for the whole run: a simulation gives nodes new random ids every time, so only
with it do two runs agree bit for bit. It is what a client says of itself. Two replies of a round with the same id are
both left out, so a liar removes one other client and himself. Where clients may lie and the rule remembers them, set
``client_id_key=None``: node ids are given out by the SuperLink, which can authenticate nodes. Clients are then numbered
in the order in which they first appear, those of one round by node id, and the numbers are kept in the state.

**Integer arrays** (BatchNorm's step counters) are beyond a rule: they are taken from the good client with the lowest
number. **Metrics** are Flower's plain weighted means of what clients say, whatever the rule; so is the weighting by
``samples``, and few rules look at it.

**Differential privacy.** Flower's ``LocalDpMod`` clips a client's update to length :math:`C` and adds noise of standard
deviation :math:`\sigma = s \sqrt{2 \ln(1.25 / \delta)} / \epsilon` to every number of the upload before it leaves the
client. Every rule works on such uploads, and no rule weakens the guarantee, which holds for each upload by itself
(what the server does afterwards is post-processing; the sum over rounds is for you to account). But robust rules tell
friend from foe by how honest uploads agree, and the noise has length :math:`\sigma \sqrt d` against the :math:`C` of an
update: a hostile client hides in it, honest signs agree half of the time, and the largest entries, which
sparsification keeps, are the noisiest ones. The mean divides the noise by :math:`\sqrt K`; a rule that returns one
upload (Krum) not at all. So robustness needs :math:`\sigma \sqrt d` well below :math:`C`, or few coordinates. A hostile
client does not run the mod: what it sends is not clipped. In Flower 1.41 the mod has gaps (seen, and tested here):
arrays *without dimensions* (a learned temperature, BatchNorm's counters) go out unclipped and without noise, so give
them a dimension; on integer arrays with dimensions, and on an update of exactly zero, the client raises and is left
out. Give the mod to ``@app.train(mods=[…])``, as an answer to an evaluation has no arrays and would be refused.

Flower's wrappers of strategies (``DifferentialPrivacyServerSideFixedClipping`` and its kin) calibrate their noise to
the mean, which one client moves by at most :math:`C / K`. It moves a median, Krum or an elected sign by more: around a
robust rule these wrappers promise what they do not hold. Secure aggregation shows the server the sum alone; every rule
but the mean needs the single uploads.
"""

try:
    from fedseca.flower.strategy import RobustStrategy
except ImportError as error:
    if (error.name or "").partition(".")[0] != "flwr":
        raise
    raise ImportError(
        "fedseca.flower needs Flower, version 1.41 or newer (pip install fedseca[flower])", name=error.name
    ) from error

__all__ = ["RobustStrategy"]
