"""An operator who never stops promoting, to be killed: `python tests/campaigns/promoter.py ROOT SEED MODEL...`.

Versions are `1.0.N`, the model file `N mod files`. Where too few can still be promoted (a version that dies in
probation counts as failed) another is registered.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from modelreg import ConflictError, Registry, RegistryError

_LEAST = 4


def main() -> None:
    registry, chance, files = (
        Registry(sys.argv[1], actor="promoter"),
        random.Random(int(sys.argv[2])),
        sys.argv[3:],
    )
    while True:
        known = registry.state("alpha").versions
        usable = [version for version, one in known.items() if one.status in ("registered", "validated")]
        try:
            if len(usable) < _LEAST:
                number = max(int(version.rpartition(".")[2]) for version in known) + 1
                registry.register(
                    "alpha", Path(files[number % len(files)]), version=f"1.0.{number}", golden=False,
                    notes=str(number),
                )  # fmt: skip
            else:
                registry.promote(f"alpha:{chance.choice(usable)}", reason="campaign")
        except ConflictError:
            continue  # the daemon was quicker; look again
        except RegistryError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(chance.uniform(0.02, 0.3))


if __name__ == "__main__":
    main()
