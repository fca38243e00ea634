"""`make matrix`: plays every conversation at every cloud, writes the matrix and the pages made from it."""

import sys

from tests.conformance import matrix, pages
from tests.conformance.stage import staged


def main() -> int:
    """1 where something fails; it stands in the matrix all the same, with the reason."""
    with staged() as stage:
        columns = {cloud: matrix.played(stage, cloud) for cloud in matrix.CLOUDS}
    rows = {row: {cloud: columns[cloud][row] for cloud in matrix.CLOUDS} for row in matrix.ROWS}
    matrix.GOLDEN.write_text(matrix.text(rows))
    pages.write()
    failing = [f"{name} at {cloud}: {came}" for (name, _), row in rows.items() for cloud, came in row.items()
               if came.startswith("FAILS")]  # fmt: skip
    print(*failing or [f"{len(rows)} rows at {len(columns)} clouds, and nothing fails"], sep="\n")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
