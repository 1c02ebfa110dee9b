"""Writes excludes.json: what Python's re.match says of patterns and names. Run with Python 3.11 or newer."""
import json
import random
import re
import sys
import warnings

warnings.simplefilter("ignore")
random.seed(7)

NAMES = [
    "", "/", "/tmp", "/tmp/x", "/tmpfoo/x", "/var/tmp/x", "/opt/x", "/opt/xevil/y", "/usr/bin/a b", "/usr/lib/x.pyc",
    "/usr/lib/x.pycc", "/home/jörg/ß", "/a{2}b", "/aab", "/AAB", "/a]b", "/a-b", "/a^b", "/x1", "/x٣", "/[:alpha:]",
    "boot_aggregate", "/a\u00a0b", "/a\tb", "/_9", "\u2028", "/a\\b", "/a$b",
]

BY_HAND = [
    "", "/tmp", "/tmp/", "/tmp/.*", "^/tmp", "/tmp$", "/tmp\\Z", "tmp", ".*tmp", ".*\\.pyc$", "/opt/x", "/opt/x/", "(a)|(b)",
    "/(a|b)", "/a{,3}b", "/a{2}b", "/a{2,}b", "/a{0,1}b", "/a\\{2\\}b", "/a{}b", "/a{x}b", "/a{,}b", "/a{2", "[[:alpha:]]", "/[[:alpha:]]",
    "/[]]b", "/a[]-]b", "/a[^]]b", "/a[-]b", "/a[a-]b", "/a[\\]]b", "/a[\\-]b", "/[^a]", "/x\\d", "/x\\D", "/\\w", "/\\W", "\\s", "/a\\sb", "/a\\Sb",
    "/a[\\s]b", "/a[\\S]b", "/[\\w]+", "/[^\\w]", "/[\\W]", "/[^\\W]", "/[\\D]", "\\b", "/\\b", "/\\B", "/a{01,02}b", "\\A/tmp", "(?:/tmp)", "(?P<n>/tmp)", "(?#note)/tmp",
    "(?i:/aab)", "(?i)/aab", "(?s:.)", "(?-i:/a)", "(?i-s:/AAB)", "(?x:/a b)", "(?a:\\w)", "(?m:^/tmp$)", "a**", "a*+", "a++", "a?+", "a*?", "/t+?mp", "*a", "+", "?", "^*", "(*)",
    "|*", "(", ")", "(a", "a)", "a)|(b", "[a", "[]", "[^]", "[z-a]", "[a-\\d]", "[\\d-a]", "\\", "\\q", "\\Q/tmp\\E", "\\pL", "\\z", "\\C", "\\1", "(a)\\1", "(?P=n)",
    "\\x2f", "\\x2", "\\u002f", "\\u00", "\\U0000002f", "\\U00110000", "\\N{SOLIDUS}", "\\0", "\\07", "/a\\$b", "/a\\\\b", "/a\\ b", "\\ß", "/home/j.rg", "/home/jörg",
    "(?=/tmp)", "(?!/tmp)", "(?<=a)b", "(?<!a)b", "(?>/tmp)", "(?(1)a|b)", "(?P<n>a)(?P<n>b)", "(?P<1>a)", "(?P<n>a", "(?U)a", "(?", "(?P", "(?#", "/x{1,1001}",
    "/x{3,2}", "/.*/x", "/usr/(lib|bin)/.*", "/usr/bin/a b", "/a\\tb", "[\\t]", "/a[\\b]b", "a|/tmp", "|a", "a|", "$", "^", "^$", "\\Z", "/tmp/.*$", "^/tmp/.*", "/tmp.*.*", "/tmp/?", "/tmp/.*x$", "(/.*)?/x",
    "/a(?:.*)", "(?:)", "()", "(^/tmp)*", "(?i:/TMP).*", "/[A-Z]+", "/[+--]", "/[a&&b]", "/[a||b]", "/[a~~b]", "/_[0-9]", "/x[٠-٩]", "\u2028", "[\\u2028]", "/[\\x61-c]+", "/\\Aa", "/a\\Z|/x",
    "x{2}{3}", "(?:a{2}){3}", "/a{01}a", "(?::)", "(?<n>a)", "(?'n'a)", "[a-z&&[aeiou]]", "{", "{1}", "/a{2}{", "a|*", "(?:a|)*", "/a{1,2}?b", "/a{1,2}+b",
]

PIECES = ["/", "a", "b", "x", "tmp", ".", "*", "+", "?", "|", "(", ")", "(?:", "[", "]", "^", "$", "-", "\\d", "\\w", "\\W", "\\s", "{2}", "{,1}",
          "\\.", ".*", "[^a]", "[a-z]", "[\\w-]", "\\Z", "\\b", "(?i:", " ", "_", "0"]


def judge(pattern):
    try:
        compiled = re.compile("(" + pattern + ")")
        re.compile(pattern)
    except (re.error, OverflowError):
        return None
    return [i for i, name in enumerate(NAMES) if compiled.match(name)]


patterns = BY_HAND + ["".join(random.choices(PIECES, k=random.randint(1, 7))) for _ in range(600)]
cases = {p: judge(p) for p in dict.fromkeys(patterns)}
json.dump({"names": NAMES, "matches": cases}, sys.stdout, indent=0, ensure_ascii=False)
print()
