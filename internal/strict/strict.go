// Package strict reads configuration so that every fault in it is named at once: where it is, what stands there, and
// what to write instead. A key that nobody knows is a fault: it is a typo, and the setting it was meant to be would be
// missing.
package strict

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// A Fault is one thing that is wrong with a configuration.
type Fault struct {
	Path  string // such as pool.minIdle or cloud.vSwitches[1]
	Value string
	Fix   string
}

// Error is one line: path, value, fix.
func (f Fault) Error() string { return fmt.Sprintf("%s: %q: %s", f.Path, f.Value, f.Fix) }

// A Rule is a condition that a value must meet, and the Fault if it does not.
type Rule struct {
	OK    bool
	Path  string
	Value any
	Fix   string
}

// Check joins the faults of the rules that are not met.
func Check(rules []Rule) error {
	var errs []error
	for _, r := range rules {
		if !r.OK {
			errs = append(errs, Fault{r.Path, fmt.Sprint(r.Value), r.Fix})
		}
	}
	return errors.Join(errs...)
}

// Unmarshal lays YAML, of which JSON is a part, over what into points to. Keys are the json tags of structs; null and
// absent keys leave what is there. The error joins a Fault for each key that is unknown and each value that does not
// fit; values without a fault are stored all the same.
func Unmarshal(text []byte, into any) error {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return fmt.Errorf("not well-formed YAML or JSON: %w", err)
	}
	d := decoder{}
	d.decode("", raw, reflect.ValueOf(into).Elem())
	return errors.Join(d.faults...)
}

type decoder struct{ faults []error }

func (d *decoder) fault(path string, raw []byte, fix string) {
	d.faults = append(d.faults, Fault{cmp.Or(path, "(file)"), text(raw), fix})
}

// text is a value as its author wrote it, as far as JSON tells.
func text(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	const enough = 80
	if len(raw) > enough {
		return string(raw[:enough]) + "..."
	}
	return string(raw)
}

func (d *decoder) decode(path string, raw []byte, v reflect.Value) {
	if string(raw) == "null" {
		return
	}
	if reads(v) {
		d.leaf(path, raw, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(path, raw, v.Elem())
	case reflect.Struct:
		d.object(path, raw, v)
	case reflect.Map:
		d.mapping(path, raw, v)
	case reflect.Slice:
		d.list(path, raw, v)
	default:
		d.leaf(path, raw, v)
	}
}

// reads says that the type reads its own text.
func reads(v reflect.Value) bool {
	if !v.CanAddr() {
		return false
	}
	switch v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler, json.Unmarshaler:
		return true
	}
	return false
}

func (d *decoder) leaf(path string, raw []byte, v reflect.Value) {
	err := json.Unmarshal(raw, v.Addr().Interface())
	if err == nil {
		return
	}
	if reads(v) {
		d.fault(path, raw, err.Error())
		return
	}
	d.fault(path, raw, "use "+kindText(v.Type()))
}

func kindText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of at least 0"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	default:
		return "a " + t.String()
	}
}

func (d *decoder) object(path string, raw []byte, v reflect.Value) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		d.fault(path, raw, "use a mapping of keys to values")
		return
	}
	fields := fieldsOf(v)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		field, ok := fields[name]
		if !ok {
			d.fault(join(path, name), members[name], unknown(name, slices.Sorted(maps.Keys(fields))))
			continue
		}
		d.decode(join(path, name), members[name], field)
	}
}

// fieldsOf maps the keys of a struct to its fields, those of embedded structs included.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(fields, fieldsOf(v.Field(i)))
		case name != "" && name != "-":
			fields[name] = v.Field(i)
		}
	}
	return fields
}

func (d *decoder) mapping(path string, raw []byte, v reflect.Value) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		d.fault(path, raw, "use a mapping of keys to values")
		return
	}
	all := reflect.MakeMap(v.Type())
	for _, name := range slices.Sorted(maps.Keys(members)) {
		one := reflect.New(v.Type().Elem()).Elem()
		d.decode(join(path, name), members[name], one)
		all.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), one)
	}
	v.Set(all)
}

func (d *decoder) list(path string, raw []byte, v reflect.Value) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		d.fault(path, raw, "use a list")
		return
	}
	all := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		d.decode(path+"["+strconv.Itoa(i)+"]", item, all.Index(i))
	}
	v.Set(all)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// unknown suggests the key that was meant, or names those that exist.
func unknown(name string, known []string) string {
	best, least := "", 3 // more than two slips are another word
	for _, k := range known {
		if n := distance(name, k); n < least {
			best, least = k, n
		}
	}
	if best != "" {
		return "no such key: did you mean " + best + "?"
	}
	return "no such key: here are " + strings.Join(known, ", ")
}

// distance counts the letters to insert, delete or replace, case aside (Levenshtein).
func distance(a, b string) int {
	x, y := bytes.ToLower([]byte(a)), bytes.ToLower([]byte(b))
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			replaced := diagonal
			if x[i] != y[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(y)]
}
