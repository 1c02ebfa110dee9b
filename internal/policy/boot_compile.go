package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"keylime/internal/uefi"
)

// bootCompiler turns the tests of a document, which are data, into bootTests. What refers to the reference state is
// looked up while compiling, so that a document that compiles cannot fail later.
type bootCompiler struct {
	doc   *bootDocument
	scope []binding // the reference state first, then what any_of and tuple_of bind
	tests int
	// expressions counts bytes of patterns.
	expressions int

	operators map[string]bootOperator
}

// bootOperator compiles the operand of one operator.
type bootOperator func(c *bootCompiler, operand any) (bootTest, error)

// bootOperators are the tests by their names in documents.
func bootOperators() map[string]bootOperator {
	constant := func(t bootTest) bootOperator { return func(*bootCompiler, any) (bootTest, error) { return t, nil } }
	return map[string]bootOperator{
		"accept":       constant(acceptTest{}),
		"reject":       (*bootCompiler).reject,
		"and":          (*bootCompiler).and,
		"or":           (*bootCompiler).or,
		"any_of":       (*bootCompiler).anyOf,
		"once":         (*bootCompiler).once,
		"at_most":      (*bootCompiler).atMost,
		"collect":      (*bootCompiler).collect,
		"field":        (*bootCompiler).field,
		"fields":       (*bootCompiler).fields,
		"each":         (*bootCompiler).each,
		"tuple":        (*bootCompiler).tuple,
		"tuple_of":     (*bootCompiler).tupleOf,
		"dispatch":     (*bootCompiler).dispatch,
		"int":          (*bootCompiler).int,
		"string":       (*bootCompiler).string,
		"pattern":      (*bootCompiler).pattern,
		"digest":       (*bootCompiler).digest,
		"bound":        constant(boundTest{}),
		"variable":     (*bootCompiler).variable,
		"variables":    (*bootCompiler).variables,
		"signature_in": (*bootCompiler).signatureIn,
		"keys_in":      (*bootCompiler).keysIn,
		"keys_include": (*bootCompiler).keysInclude,
		"superset":     (*bootCompiler).superset,
		"separator":    constant(separatorTest{}),
		"efi_action":   (*bootCompiler).action,
	}
}

// test compiles {"operator": operand}, with "comment" as one likes, or {"if": …, "then": test, "else": test}.
func (c *bootCompiler) test(tree any) (bootTest, error) {
	object, ok := tree.(uefi.Object)
	if !ok {
		return nil, faultf("want a test, not %s", kindOf(tree))
	}
	if c.tests++; c.tests > maxBootTests {
		return nil, faultf("more than %d tests; lists that are walked within each other multiply", maxBootTests)
	}
	if _, ok := object.Get("if"); ok {
		return c.choice(object)
	}
	var operator *uefi.Field
	for i, f := range object {
		switch {
		case f.Name == "comment":
		case operator != nil:
			return nil, faultf("%q and %q: a test has one operator", clipText(operator.Name), clipText(f.Name))
		default:
			operator = &object[i]
		}
	}
	if operator == nil {
		return nil, faultf("a test without an operator")
	}
	compile, ok := c.operators[operator.Name]
	if !ok {
		return nil, faultf("%q is not an operator", clipText(operator.Name))
	}
	test, err := compile(c, operator.Value)
	if err != nil {
		return nil, within(operator.Name, err)
	}
	return test, nil
}

func (c *bootCompiler) testsOf(tree any) ([]bootTest, error) {
	list, err := listOf(tree)
	if err != nil {
		return nil, err
	}
	tests := make([]bootTest, len(list))
	for i, entry := range list {
		if tests[i], err = c.test(entry); err != nil {
			return nil, within(index(i), err)
		}
	}
	return tests, nil
}

// forEach compiles a test once for each element of a list: {"list": value, "as": name, "test": test}.
func (c *bootCompiler) forEach(tree any) ([]bootTest, error) {
	source, err := fieldOf(tree, "list", func(v any) (any, error) { return v, nil })
	if err != nil {
		return nil, err
	}
	list, err := operand(c, source, listOf)
	if err != nil {
		return nil, within("list", err)
	}
	name, err := fieldOf(tree, "as", stringOf)
	if err != nil {
		return nil, err
	}
	tests := make([]bootTest, len(list))
	for i, element := range list {
		c.scope = append(c.scope, binding{name, element})
		tests[i], err = fieldOf(tree, "test", c.test)
		c.scope = c.scope[:len(c.scope)-1]
		if err != nil {
			return nil, within(fmt.Sprintf("%s number %d", name, i), err)
		}
	}
	return tests, nil
}

func (c *bootCompiler) reject(tree any) (bootTest, error) {
	why, err := stringOf(tree)
	if err == nil && why == "" {
		err = faultf("want a reason")
	}
	return rejectTest(why), err
}

func (c *bootCompiler) and(tree any) (bootTest, error) {
	tests, err := c.testsOf(tree)
	return andTest(tests), err
}

func (c *bootCompiler) or(tree any) (bootTest, error) {
	tests, err := c.testsOf(tree)
	return orTest(tests), err
}

func (c *bootCompiler) anyOf(tree any) (bootTest, error) {
	tests, err := c.forEach(tree)
	return orTest(tests), err
}

func (c *bootCompiler) tupleOf(tree any) (bootTest, error) {
	tests, err := c.forEach(tree)
	return tupleTest{tests: tests}, err
}

func (c *bootCompiler) once(tree any) (bootTest, error) { return c.times(1, tree) }

func (c *bootCompiler) atMost(tree any) (bootTest, error) {
	most, err := fieldOf(tree, "count", ruleNumber)
	if err != nil {
		return nil, err
	}
	inner, err := fieldOf(tree, "test", func(v any) (any, error) { return v, nil })
	if err != nil {
		return nil, err
	}
	return c.times(most, inner)
}

func (c *bootCompiler) times(most int, tree any) (bootTest, error) {
	slot := c.doc.limits
	c.doc.limits++
	test, err := c.test(tree)
	return timesTest{slot, most, test}, err
}

func (c *bootCompiler) collect(tree any) (bootTest, error) {
	name, err := stringOf(tree)
	if err != nil {
		return nil, err
	}
	return collectTest(c.list(name)), nil
}

// list finds or makes the place of a collected list.
func (c *bootCompiler) list(name string) int {
	i := slices.Index(c.doc.lists, name)
	if i < 0 {
		i = len(c.doc.lists)
		c.doc.lists = append(c.doc.lists, name)
	}
	return i
}

func (c *bootCompiler) field(tree any) (bootTest, error) {
	name, err := fieldOf(tree, "name", stringOf)
	if err != nil {
		return nil, err
	}
	test, err := fieldOf(tree, "test", c.test)
	return fieldTest{name, test}, err
}

func (c *bootCompiler) fields(tree any) (bootTest, error) {
	object, ok := tree.(uefi.Object)
	if !ok {
		return nil, faultf("want an object, not %s", kindOf(tree))
	}
	var tests andTest
	for _, f := range object {
		test, err := c.test(f.Value)
		if err != nil {
			return nil, within(f.Name, err)
		}
		tests = append(tests, fieldTest{f.Name, test})
	}
	return tests, nil
}

func (c *bootCompiler) each(tree any) (bootTest, error) {
	test, err := c.test(tree)
	return eachTest{test}, err
}

// tuple is a list of tests, or {"tests": list, "pad": true}.
func (c *bootCompiler) tuple(tree any) (bootTest, error) {
	if _, ok := tree.(uefi.Object); !ok {
		tests, err := c.testsOf(tree)
		return tupleTest{tests: tests}, err
	}
	tests, err := fieldOf(tree, "tests", c.testsOf)
	if err != nil {
		return nil, err
	}
	pad, err := fieldOf(tree, "pad", func(v any) (bool, error) { return truth(v), nil })
	return tupleTest{tests, pad}, err
}

// dispatch is {"keys": [name, …], "cases": [{"when": [value, …], "test": test}, …]}.
func (c *bootCompiler) dispatch(tree any) (bootTest, error) {
	keys, err := fieldOf(tree, "keys", stringsOf)
	if err != nil {
		return nil, err
	}
	cases, err := fieldOf(tree, "cases", listOf)
	if err != nil {
		return nil, err
	}
	tests := map[string]bootTest{}
	for i, entry := range cases {
		when, err := fieldOf(entry, "when", listOf)
		if err != nil || len(when) != len(keys) || len(keys) == 0 {
			return nil, within("cases"+index(i), orFault(err, "want %d values in when, one for each key", len(keys)))
		}
		values := make([]any, len(when))
		for k, value := range when {
			values[k] = fmt.Sprint(value)
		}
		key := dispatchKey(values)
		if _, twice := tests[key]; twice {
			return nil, within("cases"+index(i), faultf("another case has the same values"))
		}
		if tests[key], err = fieldOf(entry, "test", c.test); err != nil {
			return nil, within("cases"+index(i), err)
		}
	}
	return dispatchTest{keys, tests}, nil
}

func orFault(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return faultf(format, args...)
}

func stringsOf(tree any) ([]string, error) {
	list, err := listOf(tree)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list))
	for i, entry := range list {
		if out[i], err = stringOf(entry); err != nil {
			return nil, within(index(i), err)
		}
	}
	return out, nil
}

func (c *bootCompiler) int(tree any) (bootTest, error) {
	n, err := operand(c, tree, intOf)
	return intTest(n), err
}

func (c *bootCompiler) string(tree any) (bootTest, error) {
	s, err := operand(c, tree, stringOf)
	return stringTest(s), err
}

// pattern is a regular expression in Python's syntax that has to match the whole string: a value, or
// {"expression": value, "dotall": true} for a dot that matches line feeds too.
func (c *bootCompiler) pattern(tree any) (bootTest, error) {
	flags := ""
	if object, ok := tree.(uefi.Object); ok {
		if inner, ok := object.Get("expression"); ok {
			if dotall, _ := object.Get("dotall"); truth(dotall) {
				flags = "(?s)"
			}
			tree = inner
		}
	}
	source, err := operand(c, tree, stringOf)
	if err != nil {
		return nil, err
	}
	if c.expressions += len(source); len(source) > maxBootPattern || c.expressions > maxBootPatterns {
		return nil, faultf("expression of %d bytes, at most %d in one and %d in all are compiled", len(source), maxBootPattern, maxBootPatterns)
	}
	return compileBootPattern(source, flags)
}

func compileBootPattern(source, flags string) (bootTest, error) {
	translated, err := translatePattern(source)
	if err != nil {
		return nil, faultf("expression %q: %v", clipText(source), err)
	}
	re, err := regexp.Compile(flags + `\A(?:` + translated + `)\z`)
	if err != nil {
		return nil, faultf("expression %q: %v", clipText(source), err)
	}
	return patternTest{source, re}, nil
}

func (c *bootCompiler) digest(tree any) (bootTest, error) {
	set, err := operand(c, tree, digestsOf)
	return digestTest{set}, err
}

// variable is {"guid": GUID, "name": string or "pattern": expression, "test": test}.
func (c *bootCompiler) variable(tree any) (bootTest, error) {
	guid, err := fieldOf(tree, "guid", guidOf)
	if err != nil {
		return nil, err
	}
	var name bootTest
	if object := tree.(uefi.Object); hasField(object, "pattern") {
		name, err = fieldOf(tree, "pattern", c.pattern)
	} else {
		name, err = fieldOf(tree, "name", c.string)
	}
	if err != nil {
		return nil, err
	}
	test, err := fieldOf(tree, "test", c.test)
	return variableTest{guid, name, test}, err
}

func hasField(o uefi.Object, name string) bool {
	_, ok := o.Get(name)
	return ok
}

// variables is a list of {"guid": GUID, "name": string, "test": test}.
func (c *bootCompiler) variables(tree any) (bootTest, error) {
	list, err := listOf(tree)
	if err != nil {
		return nil, err
	}
	tests := variablesTest{}
	for i, entry := range list {
		var key variableName
		if key.guid, err = fieldOf(entry, "guid", guidOf); err == nil {
			key.name, err = fieldOf(entry, "name", stringOf)
		}
		if err != nil {
			return nil, within(index(i), err)
		}
		if _, twice := tests[key]; twice {
			return nil, within(index(i), faultf("variable %q has a test already", clipText(key.name)))
		}
		if tests[key], err = fieldOf(entry, "test", c.test); err != nil {
			return nil, within(index(i), err)
		}
	}
	return tests, nil
}

func (c *bootCompiler) signatureIn(tree any) (bootTest, error) {
	list, err := operand(c, tree, signaturesOf)
	return memberTest(signatureSet(list)), err
}

// keysIn is {"types": [GUID, …], "keys": value}.
func (c *bootCompiler) keysIn(tree any) (bootTest, error) {
	types, err := fieldOf(tree, "types", func(v any) (guids []uefi.GUID, err error) {
		list, err := listOf(v)
		for i, entry := range list {
			guid, err := guidOf(entry)
			if err != nil {
				return nil, within(index(i), err)
			}
			guids = append(guids, guid)
		}
		return guids, err
	})
	if err != nil {
		return nil, err
	}
	keys, err := fieldOf(tree, "keys", func(v any) ([]uefi.Signature, error) { return operand(c, v, signaturesOf) })
	return keysInTest{types, signatureSet(keys)}, err
}

// keysInclude is {"type": GUID, "keys": value} or {"union": true, "keys": value}.
func (c *bootCompiler) keysInclude(tree any) (bootTest, error) {
	keys, err := fieldOf(tree, "keys", func(v any) ([]uefi.Signature, error) { return operand(c, v, signaturesOf) })
	if err != nil {
		return nil, err
	}
	if union, _ := tree.(uefi.Object).Get("union"); truth(union) {
		t := newKeysIncludeTest(keys)
		t.union = true
		return t, nil
	}
	t := newKeysIncludeTest(keys)
	t.kind, err = fieldOf(tree, "type", guidOf)
	return t, err
}

// superset is {"fields": [name, …], "required": value}, a list of records with these fields.
func (c *bootCompiler) superset(tree any) (bootTest, error) {
	fields, err := fieldOf(tree, "fields", stringsOf)
	if err != nil {
		return nil, err
	}
	required, err := fieldOf(tree, "required", func(v any) ([]any, error) { return operand(c, v, listOf) })
	if err != nil {
		return nil, err
	}
	t := supersetTest{fields: fields}
	for i, entry := range required {
		object, ok := entry.(uefi.Object)
		if !ok || len(object) != len(fields) {
			return nil, within("required"+index(i), faultf("want a record with the fields %q", fields))
		}
		values := make([]any, len(fields))
		for k, name := range fields {
			value, ok := object.Get(name)
			if !ok {
				return nil, within("required"+index(i), faultf("%q is missing", name))
			}
			values[k] = fmt.Sprint(value)
		}
		t.required = append(t.required, dispatchKey(values))
	}
	return t, nil
}

func (c *bootCompiler) action(tree any) (bootTest, error) {
	pcr, err := intOf(tree)
	if _, ok := efiActions[int(pcr)]; err == nil && !ok {
		err = faultf("no action is defined for PCR %s", strconv.FormatUint(pcr, 10))
	}
	return actionTest(pcr), err
}
