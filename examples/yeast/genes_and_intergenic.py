"""Windows in genes and between them, as a BED with the kind in the fourth column, from a GTF.

    python examples/yeast/genes_and_intergenic.py sacCer3.ensGene.gtf.gz > genes.bed

Each gene and each stretch between genes that is long enough gives its middle bases: all windows are equally long, so
that their lengths say nothing.
"""

from __future__ import annotations

import gzip
import sys
from collections import defaultdict

LENGTH = 500


def main() -> None:
    """Print the BED."""
    genes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with gzip.open(sys.argv[1], "rt") as lines:
        for line in lines:
            fields = line.split("\t")
            if not line.startswith("#") and fields[2] == "transcript":
                genes[fields[0]].append((int(fields[3]) - 1, int(fields[4])))
    for contig, found in genes.items():
        reach = 0
        for start, end in sorted(found):
            for kind, first, last in (("intergenic", reach, start), ("gene", start, end)):
                if last - first >= LENGTH:
                    middle = (first + last - LENGTH) // 2
                    print(contig, middle, middle + LENGTH, kind, sep="\t")
            reach = max(reach, end)


if __name__ == "__main__":
    main()
