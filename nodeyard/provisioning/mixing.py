"""Plans of many nodes packed anew as a whole: as the best mix of fillings that is found.

Neighbours: `mixer` finds the mix, `ledger` writes a plan as numbers and back.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nodeyard.provisioning.ledger import Ledger
from nodeyard.provisioning.mixer import Mixer
from nodeyard.provisioning.setting import Draft, Setting


def mixed(setting: Setting, draft: Draft, spare: Callable[[], float]) -> Draft:
    """The draft, or a cheaper one that places the same pods. `spare`: seconds of work left."""
    if draft.cost <= 0 or spare() <= 0:
        return draft
    ledger = Ledger(setting, draft)
    new = [b for b in ledger.bins if ledger.place[b.column] >= 0]
    if not new:
        return draft
    columns = np.nonzero(ledger.place >= 0)[0]
    at = {int(column): i for i, column in enumerate(columns)}
    mixer = Mixer(
        ledger.request, ledger.room[columns], ledger.cost[columns], ledger.allowed[:, columns], spare,
        setting.effort,
    )  # fmt: skip
    found = mixer.run([replace(b, column=at[b.column]) for b in new])
    if found is None:
        return draft
    standing = [b for b in ledger.bins if ledger.place[b.column] < 0]
    better = ledger.drafted([*standing, *(replace(b, column=int(columns[b.column])) for b in found)])
    return draft if better is None or better.cost >= draft.cost - 1e-9 else better
