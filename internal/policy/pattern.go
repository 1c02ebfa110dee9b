package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Policies carry regular expressions in the syntax of Python's re module. translatePattern rewrites one in the
// syntax of package regexp (RE2: linear time whatever the input) so that it matches the same texts. What RE2 cannot
// express (look-around, back-references, atomic groups) is refused, as is what Python itself refuses.
//
// Two differences remain, neither of which matters for file names and event ids: \b looks at ASCII letters only, and
// $ does not match before a final line feed.
func translatePattern(pattern string) (string, error) {
	return translateNext(pattern, new([]string))
}

// translateNext is translatePattern for one of several patterns that are joined: they share the names of groups, none of
// which may stand twice.
func translateNext(pattern string, names *[]string) (string, error) {
	if !utf8.ValidString(pattern) {
		return "", &patternError{0, "not valid UTF-8"}
	}
	t := translator{in: pattern, names: names}
	for t.pos < len(t.in) {
		if err := t.item(); err != nil {
			return "", err
		}
		if t.out.Len() > maxPatternBytes {
			return "", t.errorAt(t.pos, "too large an expression")
		}
	}
	if len(t.open) > 0 {
		return "", t.errorAt(t.open[len(t.open)-1], "missing ), unterminated group")
	}
	return t.out.String(), nil
}

// patternError says where a pattern is at fault; Position counts characters from 0, as Python does.
type patternError struct {
	Position int
	Text     string
}

func (e *patternError) Error() string { return fmt.Sprintf("%s at position %d", e.Text, e.Position) }

type translator struct {
	in    string
	pos   int
	out   strings.Builder
	open  []int     // where the groups not yet closed begin
	names *[]string // group names so far
	prev  prevItem
}

// prevItem is what stands before the current position, as far as a quantifier cares.
type prevItem int

const (
	prevNothing prevItem = iota // the start of a branch, or an assertion
	prevAtom
	prevRepeat
)

// Python's character classes are those of Unicode; the bodies of bracket expressions with the same members.
const (
	classDigit = `\p{Nd}`
	classWord  = `\p{L}\p{N}_`
	classSpace = `\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`
)

func (t *translator) item() error {
	switch c := t.in[t.pos]; c {
	case '\\':
		return t.escape()
	case '[':
		return t.class()
	case '(':
		return t.group()
	case ')':
		if len(t.open) == 0 {
			return t.errorAt(t.pos, "unbalanced parenthesis")
		}
		t.open = t.open[:len(t.open)-1]
		t.emit(")", prevAtom)
		t.pos++
	case '|':
		t.emit("|", prevNothing)
		t.pos++
	case '*', '+', '?':
		t.pos++
		return t.repeat(t.pos-1, string(c))
	case '{':
		if bounds, n := t.counts(); n > 0 {
			t.pos += n
			return t.repeat(t.pos-n, bounds)
		}
		t.literal()
	case '^':
		t.emit("^", prevNothing)
		t.pos++
	case '$':
		t.emit(`\z`, prevNothing)
		t.pos++
	case '.':
		t.emit(".", prevAtom)
		t.pos++
	default:
		t.literal()
	}
	return nil
}

// literal takes one character as itself.
func (t *translator) literal() {
	c, n := utf8.DecodeRuneInString(t.in[t.pos:])
	t.emit(regexp.QuoteMeta(string(c)), prevAtom)
	t.pos += n
}

// repeat ends a quantifier that began at start. Whether it is lazy decides what a match spans, not whether there is
// one, so the mark is dropped.
func (t *translator) repeat(start int, quantifier string) error {
	switch t.prev {
	case prevNothing:
		return t.errorAt(start, "nothing to repeat")
	case prevRepeat:
		return t.errorAt(start, "multiple repeat")
	}
	switch {
	case t.at('?'):
		t.pos++
	case t.at('+'):
		return t.errorAt(start, "possessive quantifier is not supported")
	}
	t.emit(quantifier, prevRepeat)
	return nil
}

var countsForm = regexp.MustCompile(`^\{([0-9]*)(?:(,)([0-9]*))?\}`)

// counts reads {m}, {m,}, {,n} or {m,n} at the current position and returns it in RE2's form and its length in the
// pattern; anything else that begins with a brace is literal text, length 0.
func (t *translator) counts() (bounds string, n int) {
	m := countsForm.FindStringSubmatch(t.in[t.pos:])
	if m == nil || m[0] == "{}" {
		return "", 0
	}
	low, comma, high := number(m[1]), m[2], m[3]
	if high != "" {
		high = number(high)
	}
	return "{" + low + comma + high + "}", len(m[0])
}

// number writes a count without leading zeros, which RE2 refuses.
func number(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return "0"
	}
	return digits
}

// group takes what follows an opening parenthesis. All groups become non-capturing: nothing can refer to them.
func (t *translator) group() error {
	start := t.pos
	t.pos++
	if !t.at('?') {
		return t.enter(start, "(?:")
	}
	rest := t.in[t.pos+1:]
	switch {
	case strings.HasPrefix(rest, ":"):
		t.pos += 2
		return t.enter(start, "(?:")
	case strings.HasPrefix(rest, "P<"):
		name, _, closed := strings.Cut(rest[2:], ">")
		if !closed || !groupName.MatchString(name) {
			return t.errorAt(start, "bad group name")
		}
		if slices.Contains(*t.names, name) {
			return t.errorAt(start, "group name %q used twice", name)
		}
		*t.names = append(*t.names, name)
		t.pos += len("?P<") + len(name) + len(">")
		return t.enter(start, "(?:")
	case strings.HasPrefix(rest, "#"):
		_, after, closed := strings.Cut(rest, ")")
		if !closed {
			return t.errorAt(start, "missing ), unterminated comment")
		}
		t.pos = len(t.in) - len(after)
		return nil
	case strings.HasPrefix(rest, "="), strings.HasPrefix(rest, "!"):
		return t.errorAt(start, "look-ahead is not supported")
	case strings.HasPrefix(rest, "<="), strings.HasPrefix(rest, "<!"):
		return t.errorAt(start, "look-behind is not supported")
	case strings.HasPrefix(rest, "P="):
		return t.errorAt(start, "back-reference is not supported")
	case strings.HasPrefix(rest, "("):
		return t.errorAt(start, "conditional group is not supported")
	case strings.HasPrefix(rest, ">"):
		return t.errorAt(start, "atomic group is not supported")
	}
	if m := groupFlags.FindString(rest); m != "" {
		t.pos += 1 + len(m)
		return t.enter(start, "(?"+m)
	}
	if otherFlags.MatchString(rest) {
		return t.errorAt(start, "use of other flags in a group than i, m and s is not supported")
	}
	return t.errorAt(start, "unknown or global flags in a group")
}

var (
	groupName  = regexp.MustCompile(`^[\pL_][\pL\pN_]*$`)
	groupFlags = regexp.MustCompile(`^(?:[ims]+|[ims]*-[ims]+):`)
	otherFlags = regexp.MustCompile(`^(?:[aimsux]+|[aimsux]*-[imsx]+):`)
)

func (t *translator) enter(start int, opening string) error {
	t.open = append(t.open, start)
	t.emit(opening, prevNothing)
	return nil
}

// escape takes a backslash and what follows it outside a bracket expression.
func (t *translator) escape() error {
	start := t.pos
	if t.pos+1 == len(t.in) {
		return t.errorAt(start, "bad escape (end of pattern)")
	}
	switch c := t.in[t.pos+1]; c {
	case 'A', 'b', 'B':
		t.emit(`\`+string(c), prevNothing)
	case 'Z':
		t.emit(`\z`, prevNothing)
	case 'd', 'w', 's':
		t.emit("["+classMembers(c)+"]", prevAtom)
	case 'D', 'W', 'S':
		t.emit("[^"+classMembers(c+'a'-'A')+"]", prevAtom)
	default:
		char, err := t.escapedChar()
		if err != nil {
			return err
		}
		t.emit(regexp.QuoteMeta(string(char)), prevAtom)
		return nil
	}
	t.pos += 2
	return nil
}

func classMembers(c byte) string {
	switch c {
	case 'd':
		return classDigit
	case 'w':
		return classWord
	}
	return classSpace
}

// escapedChar reads an escape that stands for one character, inside or outside a bracket expression.
func (t *translator) escapedChar() (rune, error) {
	start := t.pos
	c, n := utf8.DecodeRuneInString(t.in[t.pos+1:])
	t.pos += 1 + n
	if i := strings.IndexRune("afnrtv", c); i >= 0 {
		return rune("\a\f\n\r\t\v"[i]), nil
	}
	switch {
	case c == 'x':
		return t.hexChar(start, 2)
	case c == 'u':
		return t.hexChar(start, 4)
	case c == 'U':
		return t.hexChar(start, 8)
	case c == '0':
		digits := octal.FindString(t.in[t.pos:])
		t.pos += len(digits)
		v, _ := strconv.ParseUint("0"+digits, 8, 32) // at most two octal digits
		return rune(v), nil
	case c >= '1' && c <= '9':
		return 0, t.errorAt(start, "back-reference is not supported")
	case c < utf8.RuneSelf && (c|0x20) >= 'a' && (c|0x20) <= 'z':
		return 0, t.errorAt(start, `bad escape \%c`, c)
	}
	return c, nil
}

var octal = regexp.MustCompile(`^[0-7]{0,2}`)

func (t *translator) hexChar(start, digits int) (rune, error) {
	if len(t.in)-t.pos < digits {
		return 0, t.errorAt(start, "incomplete escape")
	}
	v, err := strconv.ParseUint(t.in[t.pos:t.pos+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(v)) || v > utf8.MaxRune {
		return 0, t.errorAt(start, "bad escape")
	}
	t.pos += digits
	return rune(v), nil
}

// class takes a bracket expression.
func (t *translator) class() error {
	start := t.pos
	t.pos++
	t.emit("[", prevAtom)
	if t.at('^') {
		t.pos++
		t.emit("^", prevAtom)
	}
	for first := true; ; first = false {
		if t.pos == len(t.in) {
			return t.errorAt(start, "unterminated character set")
		}
		if t.at(']') && !first {
			t.pos++
			t.emit("]", prevAtom)
			return nil
		}
		if err := t.classItem(); err != nil {
			return err
		}
	}
}

// classItem takes a character, a range or a named class within a bracket expression.
func (t *translator) classItem() error {
	start := t.pos
	low, members, err := t.classAtom()
	if err != nil {
		return err
	}
	isRange := t.at('-') && t.pos+1 < len(t.in) && t.in[t.pos+1] != ']'
	if !isRange {
		if members == "" {
			members = fmt.Sprintf(`\x{%x}`, low)
		}
		t.emit(members, prevAtom)
		return nil
	}
	t.pos++
	high, highMembers, err := t.classAtom()
	if err != nil {
		return err
	}
	if members != "" || highMembers != "" || high < low {
		return t.errorAt(start, "bad character range")
	}
	t.emit(fmt.Sprintf(`\x{%x}-\x{%x}`, low, high), prevAtom)
	return nil
}

// classAtom reads one character of a bracket expression, or the members of a named class.
func (t *translator) classAtom() (char rune, members string, err error) {
	if !t.at('\\') {
		c, n := utf8.DecodeRuneInString(t.in[t.pos:])
		t.pos += n
		return c, "", nil
	}
	if t.pos+1 == len(t.in) {
		return 0, "", t.errorAt(t.pos, "bad escape (end of pattern)")
	}
	switch c := t.in[t.pos+1]; c {
	case 'd', 'w', 's':
		t.pos += 2
		return 0, classMembers(c), nil
	case 'D', 'W', 'S':
		t.pos += 2
		return 0, complement(classMembers(c + 'a' - 'A')), nil
	case 'b':
		t.pos += 2
		return '\b', "", nil
	}
	char, err = t.escapedChar()
	return char, "", err
}

// complement lists the characters that the class lacks, as the body of a bracket expression.
func complement(members string) string {
	re, err := syntax.Parse("[^"+members+"]", syntax.Perl)
	if err != nil {
		panic("policy: class of this package does not parse: " + err.Error())
	}
	var b strings.Builder
	for i := 0; i < len(re.Rune); i += 2 {
		fmt.Fprintf(&b, `\x{%x}-\x{%x}`, re.Rune[i], re.Rune[i+1])
	}
	return b.String()
}

func (t *translator) emit(s string, prev prevItem) {
	t.out.WriteString(s)
	t.prev = prev
}

func (t *translator) at(c byte) bool { return t.pos < len(t.in) && t.in[t.pos] == c }

func (t *translator) errorAt(offset int, format string, args ...any) error {
	return &patternError{utf8.RuneCountInString(t.in[:offset]), fmt.Sprintf(format, args...)}
}
