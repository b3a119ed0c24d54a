package labelexpr

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func at(labels map[string]string) Place {
	return Place{All: true, Labels: func(name string) (string, bool) { v, ok := labels[name]; return v, ok }}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	type labels = map[string]string
	for _, test := range []struct {
		text    string
		yes, no []labels
	}{
		{`a == "b"`, []labels{{"a": "b"}, {"a": "b", "c": "d"}}, []labels{{}, {"a": "c"}, {"c": "b"}}},
		{`a=='b'`, []labels{{"a": "b"}}, []labels{{}}},
		{`a != "b"`, []labels{{}, {"a": "c"}}, []labels{{"a": "b"}}},
		{`a in {"'", '"', "c"}`, []labels{{"a": "c"}, {"a": `"`}, {"a": "'"}}, []labels{{}, {"a": "e"}}},
		{`a not in {"b", "c",}`, []labels{{}, {"a": "e"}}, []labels{{"a": "b"}, {"a": "c"}}},
		{`a notin{"b"}`, []labels{{}}, []labels{{"a": "b"}}},
		{`a in {}`, nil, []labels{{}, {"a": ""}}},
		{`a contains "x"`, []labels{{"a": "x"}, {"a": "bxb"}}, []labels{{}, {"a": "b"}, {"b": "x"}}},
		{`a starts with "x"`, []labels{{"a": "x"}, {"a": "xb"}}, []labels{{}, {"a": "bx"}}},
		{`a startswith ''`, []labels{{"a": ""}}, []labels{{}}},
		{`a ends  with "x"`, []labels{{"a": "x"}, {"a": "bx"}}, []labels{{}, {"a": "xb"}}},
		{`has(a)`, []labels{{"a": ""}}, []labels{{}, {"b": "a"}}},
		{`!has( a )`, []labels{{}}, []labels{{"a": ""}}},
		{`!!has(a)`, []labels{{"a": ""}}, []labels{{}}},
		{`!!! has(a)`, []labels{{}}, []labels{{"a": ""}}},
		{"", []labels{{}, {"a": "b"}}, nil},
		{" \t", []labels{{}}, nil},
		{`all()`, []labels{{}}, nil},
		{`!all( )`, nil, []labels{{}}},
		{`a == "1" && b == "1" || c == "1"`, []labels{{"c": "1"}, {"a": "1", "b": "1"}}, []labels{{"a": "1"}, {"b": "1"}, {}}},
		{`a == "1" && (b == "1" || c == "1")`, []labels{{"a": "1", "c": "1"}}, []labels{{"c": "1"}, {"b": "1", "c": "1"}}},
		{`!a == "1" && !b == "1"`, []labels{{}, {"a": "2"}}, []labels{{"a": "1"}, {"b": "1"}}},
		{`!(has(b) || !has(a))`, []labels{{"a": ""}}, []labels{{}, {"a": "", "b": ""}}},
		{`in in {"not"} && has(has) && contains contains "x"`, []labels{{"in": "not", "has": "", "contains": "x"}}, []labels{{}}},
		{`app.kubernetes.io/name-x_Y == "&& || ("`, []labels{{"app.kubernetes.io/name-x_Y": "&& || ("}}, []labels{{}}},
	} {
		e, err := Parse(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		for _, labels := range test.yes {
			if !e.Holds(at(labels)) {
				t.Errorf("%s does not hold for %v", test.text, labels)
			}
		}
		for _, labels := range test.no {
			if e.Holds(at(labels)) {
				t.Errorf("%s holds for %v", test.text, labels)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"b == b", "b contains b", "b starts with b", "'b' == b", "b", "a b", "!", `a == "b" &`, `a == "b" |`, "a != ||",
		`a in {"", ||`, `a in {,}`, `a in {"b" "c"}`, `a in "b"`, `a == {"b"}`, `"FOO`, `'FOO"`, "(", `(a == "b"`, ")", "()", "%", `a == "b" && %`,
		"a ", "has(foo) &&", "has(foo", "has()", "has (a)", "all(a)", `a = "b"`, `a starts "b"`, `a == "b" c == "d"`, "a == \"b\"\n",
		strings.Repeat("a", maxName+1) + ` == "b"`, strings.Repeat("(", 100_000) + "all()" + strings.Repeat(")", 100_000),
	} {
		if e, err := Parse(text); err == nil {
			t.Errorf("%.40q is taken for %v", text, e)
		}
	}
	deep := strings.Repeat("!(", maxDepth) + "has(a)" + strings.Repeat(")", maxDepth)
	if e, err := Parse(deep); err != nil || e.String() != "has(a)" {
		t.Errorf("%d parentheses: %v, %v", maxDepth, e, err)
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "all()",
		" (all() )":                          "all()",
		"global()":                           "global()",
		`! (has( b)||! has(a ))`:             "!(has(b) || !has(a))",
		`! (a == 'b'&&! c != "d")`:           `!(a == "b" && !c != "d")`,
		`a contains '"'`:                     `a contains '"'`,
		`a startswith "'"`:                   `a starts with "'"`,
		`a!='x'`:                             `a != "x"`,
		`a in {"z", "x", "z", "y"}`:          `a in {"x", "y", "z"}`,
		`a=="1"||b=="2"&&c=="3"`:             `(a == "1" || (b == "2" && c == "3"))`,
		`!(!(a ends with "b"))`:              `a ends with "b"`,
		`a notin {}`:                         `a not in {}`,
		`(a == "1" && b == "2") && c != "3"`: `((a == "1" && b == "2") && c != "3")`,
	} {
		e, err := Parse(text)
		if err != nil || e.String() != want {
			t.Errorf("%s is %v (%v), want %s", text, e, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	e, err := Parse(`!(b == "x" || has(a) && a in {"y"}) && !global()`)
	if err != nil || !slices.Equal(e.Names(), []string{"a", "b"}) || !e.UsesGlobal() || e.IsGlobal() {
		t.Errorf("%v (%v) looks at %v", e, err, e.Names())
	}
	if e, err = Parse(" global( )"); err != nil || !e.IsGlobal() || !e.Holds(Place{Global: true}) || e.Holds(Place{All: true}) {
		t.Errorf("global() is %v, %v", e, err)
	}
	if e, err = Parse("all()"); err != nil || e.Holds(Place{Global: true}) || e.IsGlobal() || e.UsesGlobal() || e.Names() != nil {
		t.Errorf("all() is %v, %v", e, err)
	}
}

// A written expression comes with what it means.
type written struct {
	text  string
	holds func(map[string]string) bool
}

var (
	labelNames  = rapid.SampledFrom([]string{"a", "b", "in", "not", "has", "a.b/c-d_e"})
	labelValues = rapid.SampledFrom([]string{"", "x", "y", "xy", "yx", `"`, "'", "&& has(a)"})
	space       = rapid.SampledFrom([]string{"", " ", "\t "})
)

func drawn(t *rapid.T, depth int) written {
	if depth == 0 || rapid.IntRange(0, 2).Draw(t, "leaf") == 0 {
		return drawnLeaf(t)
	}
	s := space.Draw(t, "space")
	x := drawn(t, depth-1)
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return written{"!" + s + "(" + x.text + ")", func(l map[string]string) bool { return !x.holds(l) }}
	case 1:
		return written{"(" + s + x.text + s + ")", x.holds}
	case 2:
		y := drawn(t, depth-1)
		return written{"(" + x.text + ")" + s + "&&(" + y.text + ")", func(l map[string]string) bool { return x.holds(l) && y.holds(l) }}
	}
	y, z := drawn(t, depth-1), drawnLeaf(t)
	return written{"!" + z.text + s + "&&(" + x.text + ")||" + s + "(" + y.text + ")", func(l map[string]string) bool {
		return !z.holds(l) && x.holds(l) || y.holds(l)
	}}
}

func drawnLeaf(t *rapid.T) written {
	name, value, other, s := labelNames.Draw(t, "name"), labelValues.Draw(t, "value"), labelValues.Draw(t, "other"), space.Draw(t, "space")
	compare := func(symbol string, missing bool, is func(string, string) bool) written {
		return written{name + " " + symbol + s + quote(value), func(l map[string]string) bool {
			have, ok := l[name]
			return !ok && missing || ok && is(have, value)
		}}
	}
	switch rapid.IntRange(0, 8).Draw(t, "operator") {
	case 0:
		return compare("==", false, func(a, b string) bool { return a == b })
	case 1:
		return compare("!=", true, func(a, b string) bool { return a != b })
	case 2:
		return compare("contains", false, strings.Contains)
	case 3:
		return compare("starts"+s+"with", false, strings.HasPrefix)
	case 4:
		return compare("ends"+s+"with", false, strings.HasSuffix)
	case 5:
		return written{name + " in" + s + "{" + quote(value) + s + "," + quote(other) + s + "}", func(l map[string]string) bool {
			have, ok := l[name]
			return ok && (have == value || have == other)
		}}
	case 6:
		return written{name + " not" + s + "in{" + s + quote(value) + "," + quote(other) + "}", func(l map[string]string) bool {
			have, ok := l[name]
			return !ok || have != value && have != other
		}}
	case 7:
		return written{"all(" + s + ")", func(map[string]string) bool { return true }}
	}
	return written{"has(" + s + name + s + ")", func(l map[string]string) bool { _, ok := l[name]; return ok }}
}

func TestMeaning(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := drawn(t, 4)
		e, err := Parse(want.text)
		if err != nil {
			t.Fatalf("%s: %v", want.text, err)
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Fatalf("%s is written %s, which is %v, %v", want.text, e, again, err)
		}
		labels := rapid.MapOf(labelNames, labelValues).Draw(t, "labels")
		if got := e.Holds(at(labels)); got != want.holds(labels) || again.Holds(at(labels)) != got {
			t.Fatalf("%s holds for %v: %v", want.text, labels, got)
		}
		// Labels that the expression does not name do not matter.
		seen := maps.Clone(labels)
		maps.DeleteFunc(seen, func(name, _ string) bool { return !slices.Contains(e.Names(), name) })
		if e.Holds(at(seen)) != e.Holds(at(labels)) {
			t.Fatalf("%s looks at labels besides %v", want.text, e.Names())
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", `a == "b" && !has(c) || d not in {'x', "y"}`, `!(a starts with 'x')`, "global()", "((((", `a in {"b",}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Fatalf("%q is written %q, which is %v, %v", text, e, again, err)
		}
		labels := map[string]string{"a": "b"}
		if e.Holds(at(labels)) != again.Holds(at(labels)) {
			t.Fatalf("%q and %q differ", text, e)
		}
	})
}
