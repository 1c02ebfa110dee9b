package config

import (
	"errors"
	"fmt"
	"strings"
)

// iniOption is one option of an INI file.
type iniOption struct {
	section, name, value string
	line                 int
}

// parseINI reads the dialect of Keylime's server files, which is that of Python's raw configuration parser: names are
// folded to lower case, = or : separates, lines indented deeper than their option continue its value, comments take
// whole lines, and an option or section may stand only once.
func parseINI(text string) ([]iniOption, error) {
	p := iniParser{seen: map[string]int{}}
	for i, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		if err := p.line(i+1, strings.TrimSuffix(line, "\r")); err != nil {
			return nil, err
		}
	}
	for i := range p.options {
		p.options[i].value = strings.TrimRight(p.options[i].value, " \t\r\n")
	}
	return p.options, nil
}

type iniParser struct {
	options []iniOption
	seen    map[string]int // line of each section and option
	section string
	open    bool // the last option may be continued
	indent  int  // of that option or of the section header
}

// lineError is an error at a line of a file.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

func (p *iniParser) line(n int, line string) error {
	content := strings.TrimSpace(line)
	if content == "" {
		if p.open {
			p.extend("")
		}
		return nil
	}
	if content[0] == '#' || content[0] == ';' {
		return nil
	}
	indent := len(line) - len(strings.TrimLeft(line, " \t\v\f"))
	if p.open && indent > p.indent {
		p.extend(content)
		return nil
	}
	p.indent = indent
	if content[0] == '[' {
		if end := strings.LastIndexByte(content, ']'); end > 1 {
			return p.header(n, content[1:end])
		}
	}
	return p.option(n, content)
}

func (p *iniParser) extend(content string) {
	last := &p.options[len(p.options)-1]
	last.value += "\n" + content
}

func (p *iniParser) header(n int, name string) error {
	p.section, p.open = name, false
	return p.once(n, "["+name+"]")
}

func (p *iniParser) option(n int, content string) error {
	if p.section == "" {
		return &lineError{n, errors.New("option before the first [section]")}
	}
	at := strings.IndexAny(content, "=:")
	if at < 0 {
		return &lineError{n, fmt.Errorf("neither a [section] nor an option with a value: %q", content)}
	}
	name := strings.ToLower(strings.TrimSpace(content[:at]))
	if name == "" {
		return &lineError{n, errors.New("value without an option")}
	}
	p.options = append(p.options, iniOption{p.section, name, strings.TrimSpace(content[at+1:]), n})
	p.open = true
	return p.once(n, "["+p.section+"] "+name)
}

func (p *iniParser) once(n int, what string) error {
	if first, dup := p.seen[what]; dup {
		return &lineError{n, fmt.Errorf("%s stands here a second time, first in line %d", what, first)}
	}
	p.seen[what] = n
	return nil
}
