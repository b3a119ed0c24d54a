package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nearpath/nearpath/internal/service/model"
)

// A tally counts what has been compared.
type tally struct {
	clusters map[string]int // by kube-proxy's mode
	took     []time.Duration
	classes  map[string]int // by client, protocol and outcome
	rows     map[string]int // by row: probes that it decided
	probes   int
	tries    int
	used     map[*allowance]int
	spent    map[string]time.Duration
	flaky    []string
	kinds    map[string]int // of what is wrong: probes
	failed   int
}

func newTally() *tally {
	return &tally{
		clusters: map[string]int{}, classes: map[string]int{}, rows: map[string]int{}, used: map[*allowance]int{},
		spent: map[string]time.Duration{}, kinds: map[string]int{},
	}
}

func (t *tally) add(c *comparison, took time.Duration) {
	t.took = append(t.took, took)
	for k, s := range c.sides {
		if k > 0 {
			t.clusters[s.dialect.String()]++
		}
		for _, s := range c.seen[k] {
			t.tries += s.tries()
		}
	}
	for i, p := range c.probes {
		t.probes++
		v := c.verdicts[0][i]
		t.classes[fmt.Sprintf("%s\t%s", placeOf(p.Client), v.Outcome)]++
		for _, row := range slices.Compact(slices.Sorted(slices.Values(v.Rows))) {
			t.rows[row]++
		}
	}
	for a, n := range c.allowed {
		t.used[a] += n
	}
}

// unstable notes differences that were not there when asked about once more.
func (t *tally) unstable(seed int, suspects, wrong []difference) {
	for _, d := range suspects {
		if !slices.ContainsFunc(wrong, func(o difference) bool { return o.probe == d.probe }) {
			t.flaky = append(t.flaky, fmt.Sprintf("seed %d: %s\n%s", seed, d.probe, d.what))
		}
	}
}

func (t *tally) print(out io.Writer, took time.Duration) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "client\tverdict\tprobes")
	for _, class := range slices.Sorted(maps.Keys(t.classes)) {
		fmt.Fprintf(w, "%s\t%d\n", class, t.classes[class])
	}
	_ = w.Flush() // out fails with the next line, too
	fmt.Fprintf(out, "\nrows that decided (probes):")
	for _, row := range slices.Sorted(maps.Keys(t.rows)) {
		fmt.Fprintf(out, " %s %d", row, t.rows[row])
	}
	fmt.Fprintf(out, "\n\ndifferences that are meant:\n")
	for _, a := range allowances {
		note := ""
		if t.used[a] == 0 {
			note = " (NEVER USED: remove it, or find out why)"
		}
		fmt.Fprintf(out, "  %-4s %7d  %s%s\n", a.row, t.used[a], a.why, note)
	}
	if len(t.flaky) > 0 {
		fmt.Fprintf(out, "\n%d differences were not there when asked about again, with more patience; the first ones:\n", len(t.flaky))
		for _, text := range t.flaky[:min(len(t.flaky), 5)] {
			fmt.Fprint(out, "  ", text)
		}
	}
	if len(t.kinds) > 0 {
		fmt.Fprint(out, "\nwhat is wrong (probes):\n")
	}
	for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(out, "  %6d  %s\n", t.kinds[kind], kind)
	}
	fmt.Fprintf(out, "\ntime of each side, all clusters:")
	for _, name := range slices.Sorted(maps.Keys(t.spent)) {
		fmt.Fprintf(out, " %s %.1fs;", name, t.spent[name].Seconds())
	}
	slices.Sort(t.took)
	var modes []string
	for _, d := range []model.Dialect{model.NFTables, model.IPTables} {
		modes = append(modes, fmt.Sprintf("%d against %s", t.clusters[d.String()], d))
	}
	fmt.Fprintf(out, "\n%d clusters (%s), %d probes, %d connections in %s; %s a cluster (median)\nclusters with unexplained mismatches: %d\n",
		len(t.took), strings.Join(modes, ", "), t.probes, t.tries, took.Round(time.Second), t.median().Round(time.Millisecond), t.failed)
}

func (t *tally) median() time.Duration {
	if len(t.took) == 0 {
		return 0
	}
	return t.took[len(t.took)/2]
}
