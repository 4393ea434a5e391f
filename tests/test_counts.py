"""The source keeps to the limits of the issues. `python tests/counts.py` prints what is counted."""

import pytest

import counts

LINES = 20_863  # of code, where it is; the parent of the second edition had 18,481
LIMITS = {
    "circles of imports": 0,
    "isinstance on own classes": 10,
    "files over 450 lines": 4,
    "functions over 60 lines": 2,  # kernels whose state is too much to hand over
    "functions with more than 8 arguments": 0,
    "citations of REFERENCE": 0,
}


@pytest.fixture(scope="module")
def measured():
    return counts.measure(counts.ROOT)


def test_the_source_keeps_to_its_limits(measured):
    assert measured["lines of code"] <= LINES
    over = {name: measured[name] for name, most in LIMITS.items() if len(measured[name]) > most}
    assert not over


def test_words_that_the_project_has_given_up_stay_away(measured):
    hits = {name: measured[name] for name in measured if name.startswith(("word: ", "several"))}
    assert not {name: found for name, found in hits.items() if found}


def test_what_is_no_code_is_not_counted():
    source = '''"""A docstring.

Of three lines."""

# A comment.
x = """a string

with a blank line"""


def f():
    "Another docstring."
    return (
        x  # code
    )
'''
    assert counts.code_lines(source) == 2 + 1 + 3


def test_modules_that_import_each_other_are_found(tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from p import b\n")
    (package / "b.py").write_text("def f():\n    from p.c import d\n")
    (package / "c.py").write_text("import p.a\n")
    (package / "e.py").write_text("import p.a\n")
    assert counts.circles(counts.imports(tmp_path)) == [["p.a", "p.b", "p.c"]]


@pytest.mark.parametrize(
    ("word", "old", "other"),
    [
        ("course", "the whole course", "of course"),
        ("world", "a world of two ranks", "world_size"),
        ("play", "play RECIPE", "display"),
        ("recall", "recall and cache", "recalled"),
        ("span (adaptation)", "after every span", "it spans all lanes"),
    ],
)
def test_an_old_word_is_told_from_ordinary_english(word, old, other, tmp_path):
    row = next(row for row in counts.WORDS if row.old == word)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Text.\n")
    page = tmp_path / "docs" / "score.md"
    page.write_text(old)
    assert len(counts.hits(tmp_path, row.pattern, row.where)) == 1
    page.write_text(other)
    assert counts.hits(tmp_path, row.pattern, row.where) == []


def test_codes_of_a_document_that_nobody_has_are_found():
    for line in ("(REFERENCE A3)", "see A9-5", "(B2-3)", "(D1)"):
        assert counts.re.search(counts.REFERENCE, line), line
    for line in ("noqa: B023", "4L/128d T512 B8", "AVX512", "issue #1"):
        assert not counts.re.search(counts.REFERENCE, line), line


def test_the_script_prints_every_measure(measured, capsys):
    counts.show(measured)
    shown = capsys.readouterr().out
    for name in measured:
        assert f"\n{name}: " in f"\n{shown}"
