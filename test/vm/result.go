package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/nearpath/nearpath/test/vm/plan"
)

// A result is what became of the tests on one kernel.
type result struct {
	kernel installed
	tests  map[string]outcome // by <package's dir>.<top-level test>
	says   map[string]string  // what a test has logged for the table
	last   string             // the test that printed last, while its package runs
	ended  map[string]bool    // packages, by their directories
	wrong  []string           // what else makes the kernel fail: packages, modules, the guest
}

type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "FAIL"
	skipped outcome = "SKIP" // a test that skips proves nothing
)

func newResult(k installed) *result {
	return &result{kernel: k, tests: map[string]outcome{}, says: map[string]string{}, ended: map[string]bool{}}
}

// said is what a test logs to have its own words in the table instead of "yes": t.Log("vm: fallback").
var said = regexp.MustCompile(`^\s+\S+_test\.go:\d+: vm: (.+)$`)

var begun = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +([^/\s]+)`)

var verdict = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+) `)

// add takes note of an event.
func (r *result) add(e plan.Event) {
	switch {
	case e.Module != "":
		r.wrong = append(r.wrong, fmt.Sprintf("module %s: %s", e.Module, e.Error))
	case e.Done:
		r.ended[e.Run] = true
		if e.Exit != 0 || e.Error != "" {
			r.wrong = append(r.wrong, ended(e))
		}
	case e.Run != "":
		if m := begun.FindStringSubmatch(e.Line); m != nil {
			r.last = e.Run + "." + m[1]
		} else if m := said.FindStringSubmatch(e.Line); m != nil {
			r.says[r.last] = m[1]
		} else if m := verdict.FindStringSubmatch(e.Line); m != nil {
			r.tests[e.Run+"."+m[2]] = map[string]outcome{"PASS": passed, "FAIL": failed, "SKIP": skipped}[m[1]]
		}
	}
}

// ended says how a run ended.
func ended(e plan.Event) string {
	return strings.TrimSpace(fmt.Sprintf("./%s: exit status %d %s", e.Run, e.Exit, e.Error))
}

// passed returns how many tests have passed.
func (r *result) passed() int {
	n := 0
	for _, o := range r.tests {
		if o == passed {
			n++
		}
	}
	return n
}

// left are the packages that have not ended.
func (r *result) left(tests []built) []built {
	return slices.DeleteFunc(slices.Clone(tests), func(t built) bool { return r.ended[t.dir] })
}

// expect finds fault with packages of which no test has run: a wrong name or expression proves nothing.
func (r *result) expect(packages []testPackage) {
	for _, p := range packages {
		ran := false
		for name := range r.tests {
			dir, _, _ := strings.Cut(name, ".Test")
			ran = ran || dir == p.dir
		}
		if !ran {
			r.wrong = append(r.wrong, fmt.Sprintf("./%s: no test has run", p.dir))
		}
	}
}

// green says that all went well, and that it was something.
func (r *result) green() bool {
	return len(r.wrong) == 0 && len(r.tests) > 0 && r.passed() == len(r.tests)
}

// cell says whether a feature works on the kernel; the reason belongs below the table.
func (l lane) cell(r *result, f feature) (text, reason string, ok bool) {
	text = "yes"
	for _, test := range f.tests {
		dir, name, _ := strings.Cut(test, ".")
		i := slices.IndexFunc(l.packages, func(p testPackage) bool { return p.dir == dir })
		if i >= 0 {
			if why, is := l.packages[i].whyNot(name, r.kernel.name); is {
				return "not here", why, true
			}
		}
		switch o, ran := r.tests[test]; {
		case !ran:
			return "NOT RUN", test, false
		case o != passed:
			return string(o), test, false
		}
		text = cmp.Or(r.says[test], text)
	}
	return text, "", true
}

// report prints the table of features by kernels and what went wrong, and says whether all is well.
func (l lane) report(to io.Writer, results []*result) bool {
	ok := true
	notes := []string{}
	note := func(text string) int {
		if i := slices.Index(notes, text); i >= 0 {
			return i + 1
		}
		notes = append(notes, text)
		return len(notes)
	}
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "feature")
	for _, r := range results {
		fmt.Fprintf(table, "\t%s", r.kernel.name)
	}
	for _, f := range l.features {
		fmt.Fprintf(table, "\n%s", f.name)
		for _, r := range results {
			text, reason, good := l.cell(r, f)
			ok = ok && good
			if reason != "" {
				text = fmt.Sprintf("%s (%d)", text, note(reason))
			}
			fmt.Fprintf(table, "\t%s", text)
		}
	}
	fmt.Fprint(table, "\ntests passed")
	for _, r := range results {
		fmt.Fprintf(table, "\t%d of %d", r.passed(), len(r.tests))
	}
	fmt.Fprintln(table)
	table.Flush() //nolint:errcheck // the terminal is gone, then
	for i, n := range notes {
		fmt.Fprintf(to, "(%d) %s\n", i+1, n)
	}
	for _, r := range results {
		ok = summary(to, r) && ok
	}
	return ok
}

// summary prints what went wrong on a kernel.
func summary(to io.Writer, r *result) bool {
	for _, w := range r.wrong {
		fmt.Fprintf(to, "%s: %s\n", r.kernel.name, w)
	}
	if len(r.tests) == 0 {
		fmt.Fprintf(to, "%s: no test has run\n", r.kernel.name)
	}
	names := []string{}
	for name, o := range r.tests {
		if o != passed {
			names = append(names, fmt.Sprintf("%s: %s %s\n", r.kernel.name, o, name))
		}
	}
	slices.Sort(names)
	fmt.Fprint(to, strings.Join(names, ""))
	return r.green()
}
