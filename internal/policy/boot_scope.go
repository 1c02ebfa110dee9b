package policy

import (
	"fmt"
	"slices"
	"strings"

	"keylime/internal/uefi"
)

// What rules compare with comes from the reference state, and is looked up while compiling.

type binding struct {
	name  string // "" for the reference state
	value any
}

// choice is made while compiling: "if" reads the reference state, not the log.
func (c *bootCompiler) choice(object uefi.Object) (bootTest, error) {
	if len(object) != 3 {
		return nil, faultf("want the fields if, then and else, no others")
	}
	condition, _ := object.Get("if")
	holds, err := c.condition(condition)
	if err != nil {
		return nil, within("if", err)
	}
	// Both branches are fields of a well-formed test; only the one that holds has to fit the reference state.
	for _, name := range []string{"then", "else"} {
		if _, ok := object.Get(name); !ok {
			return nil, faultf("%q is missing", name)
		}
	}
	if holds {
		return fieldOf(object, "then", c.test)
	}
	return fieldOf(object, "else", c.test)
}

// condition is {"not": condition}, {"all": [condition, …]} or a value, which holds as it does in Python: false, null, 0
// and what is empty do not.
func (c *bootCompiler) condition(tree any) (bool, error) {
	object, _ := tree.(uefi.Object)
	if inner, ok := object.Get("not"); ok && len(object) == 1 {
		holds, err := c.condition(inner)
		return !holds, err
	}
	if inner, ok := object.Get("all"); ok && len(object) == 1 {
		list, err := listOf(inner)
		if err != nil {
			return false, within("all", err)
		}
		for i, entry := range list {
			if holds, err := c.condition(entry); err != nil || !holds {
				return false, wrapIndex(i, err)
			}
		}
		return true, nil
	}
	value, err := c.value(tree)
	return truth(value), err
}

func wrapIndex(i int, err error) error {
	if err == nil {
		return nil
	}
	return within(index(i), err)
}

// value resolves {"ref": "name.field", "default": value} and {"concat": [value, …]}, also within objects and lists;
// anything else stands for itself, as does all that comes from the reference state.
func (c *bootCompiler) value(tree any) (any, error) {
	if list, ok := tree.([]any); ok {
		return c.values(list)
	}
	object, ok := tree.(uefi.Object)
	if !ok {
		return tree, nil
	}
	if ref, ok := object.Get("ref"); ok {
		name, err := stringOf(ref)
		if err != nil {
			return nil, within("ref", err)
		}
		value, err := c.lookup(name)
		if fallback, ok := object.Get("default"); ok && err != nil {
			return fallback, nil
		}
		return value, err
	}
	if parts, ok := object.Get("concat"); ok {
		return c.concat(parts)
	}
	resolved := make(uefi.Object, len(object))
	for i, f := range object {
		value, err := c.value(f.Value)
		if err != nil {
			return nil, within(f.Name, err)
		}
		resolved[i] = uefi.Field{Name: f.Name, Value: value}
	}
	return resolved, nil
}

func (c *bootCompiler) values(list []any) (any, error) {
	resolved := make([]any, len(list))
	for i, entry := range list {
		value, err := c.value(entry)
		if err != nil {
			return nil, within(index(i), err)
		}
		resolved[i] = value
	}
	return resolved, nil
}

func (c *bootCompiler) concat(tree any) (any, error) {
	list, err := listOf(tree)
	if err != nil {
		return nil, within("concat", err)
	}
	var b strings.Builder
	for i, part := range list {
		s, err := operand(c, part, stringOf)
		if err != nil {
			return nil, within("concat"+index(i), err)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// lookup finds a value by its path; the first step may be a name that is bound around here.
func (c *bootCompiler) lookup(path string) (any, error) {
	steps := strings.Split(path, ".")
	value := c.scope[0].value
	for _, b := range slices.Backward(c.scope[1:]) {
		if b.name == steps[0] {
			value, steps = b.value, steps[1:]
			break
		}
	}
	for _, step := range steps {
		object, ok := value.(uefi.Object)
		if !ok {
			return nil, faultf("reference %q: want an object, not %s", clipText(path), kindOf(value))
		}
		if value, ok = object.Get(step); !ok {
			return nil, faultf("reference %q: the reference state lacks %q", clipText(path), clipText(step))
		}
	}
	return value, nil
}

// operand resolves a value and reads it. Faults name the reference it came from.
func operand[T any](c *bootCompiler, tree any, read func(any) (T, error)) (T, error) {
	value, err := c.value(tree)
	if err != nil {
		var none T
		return none, err
	}
	out, err := read(value)
	if object, ok := tree.(uefi.Object); ok && err != nil {
		if ref, ok := object.Get("ref"); ok {
			err = within(fmt.Sprintf("reference %q", ref), err)
		}
	}
	return out, err
}
