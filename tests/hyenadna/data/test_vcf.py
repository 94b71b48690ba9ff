from __future__ import annotations

from hyenadna.data.variants import VariantRecord
from hyenadna.data.vcf import Annotation, own_keys

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", "S")


def record(*fields: str) -> VariantRecord:
    return VariantRecord("x", fields, fields[0], int(fields[1]) - 1, fields[3], tuple(fields[4].split(",")), 4)


def test_values_and_notes_of_each_allele_go_into_info() -> None:
    annotation = Annotation(("##fileformat=VCFv4.2",), COLUMNS, {"score": "the score"})
    *lines, names = annotation.header.splitlines()
    assert lines[0] == "##fileformat=VCFv4.2"
    assert lines[1] == '##INFO=<ID=HYENADNA_SCORE,Number=A,Type=Float,Description="the score">'
    assert lines[2].startswith("##INFO=<ID=HYENADNA_NOTE,Number=A,Type=String,")
    assert names == "\t".join(COLUMNS)
    fields = ("1", "5", "id", "A", "C,<DEL>", "9", "PASS", 'Q="a b"', "GT", "0/1")
    line = annotation.line(record(*fields), [["0.5"], []], ["", "symbolic allele"])
    assert (
        line == '1\t5\tid\tA\tC,<DEL>\t9\tPASS\tQ="a b";HYENADNA_SCORE=0.5,.;HYENADNA_NOTE=.,symbolic_allele\tGT\t0/1\n'
    )
    line = annotation.line(record(*fields), [["0.5"], ["1"]], ["", ""])
    assert line.split("\t")[7] == 'Q="a b";HYENADNA_SCORE=0.5,1'
    line = annotation.line(record(*fields), [[], []], ["a, b", "c; d=e: 5%"])
    assert line.split("\t")[7] == 'Q="a b";HYENADNA_NOTE=a%2C_b,c%3B_d%3De%3A_5%25'


def test_info_is_added_where_there_is_none() -> None:
    annotation = Annotation((), COLUMNS[:5], {"score": "the score"})
    assert annotation.header.splitlines()[-1] == "\t".join(COLUMNS[:8])
    assert (
        annotation.line(record("1", "5", ".", "A", "C"), [["0.5"]], [""]) == "1\t5\t.\tA\tC\t.\t.\tHYENADNA_SCORE=0.5\n"
    )
    with_dot = record("1", "5", ".", "A", "C", ".", ".", ".")
    assert annotation.line(with_dot, [["0.5"]], [""]).endswith("\t.\t.\tHYENADNA_SCORE=0.5\n")


def test_keys_of_an_earlier_run_stay() -> None:
    first = Annotation((), COLUMNS, {"score": "a"})
    second = Annotation(tuple(first.header.splitlines()[:-1]), COLUMNS, {"score": "b"})
    assert "##INFO=<ID=HYENADNA_SCORE2,Number=A" in second.header
    third = Annotation(tuple(second.header.splitlines()[:-1]), COLUMNS, {"score": "b"})
    assert "##INFO=<ID=HYENADNA_SCORE3,Number=A" in third.header
    assert "HYENADNA_NOTE3=x" in third.line(record("1", "5", ".", "A", "C", ".", ".", "."), [[]], ["x"])


def test_keys_are_known_in_any_order_of_attributes_and_without_a_header() -> None:
    line = '##INFO=<Description="a, ID=b",Number=1,ID=HYENADNA_SCORE,Type=Float>'
    assert "##INFO=<ID=HYENADNA_SCORE2,Number=A" in Annotation((line,), COLUMNS, {"score": "a"}).header
    other = '##INFO=<ID=X,Number=1,Type=Float,Description="ID=HYENADNA_SCORE,">'
    assert "##INFO=<ID=HYENADNA_SCORE,Number=A" in Annotation((other,), COLUMNS, {"score": "a"}).header
    used = set(own_keys(record("1", "5", ".", "A", "C", ".", ".", "X=HYENADNA_A;HYENADNA_NOTE=a;HYENADNA_FLAG")))
    assert used == {"HYENADNA_NOTE", "HYENADNA_FLAG"}
    annotation = Annotation((), COLUMNS, {"score": "a"}, used)
    text = annotation.line(record("1", "5", ".", "A", "C", ".", ".", "HYENADNA_NOTE=a"), [["1"]], ["x"])
    assert text.split("\t")[7] == "HYENADNA_NOTE=a;HYENADNA_SCORE2=1;HYENADNA_NOTE2=x\n"
