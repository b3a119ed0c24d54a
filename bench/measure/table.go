package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// header names the columns of a table of figures.
var header = []string{"n", "p50", "p95", "p99", "spread", "of peer", "of floor"}

// A block is the figures of one metric of a series, one row for each case that has any.
type block struct {
	title string
	rows  [][]string // the case's name, then the columns of header
}

// blocks lays a series out.
func (s SeriesResult) blocks() (all []block) {
	for _, m := range s.Metrics {
		b := block{title: fmt.Sprintf("%s, %s", m.What, m.Unit)}
		peer, floor := s.best(Peer, m), s.best(Floor, m)
		for _, c := range s.Cases {
			sum := c.Summary(m)
			if sum.N == 0 {
				continue
			}
			row := []string{c.Name, fmt.Sprint(sum.N), Figure(sum.P50), Figure(sum.P95), Figure(sum.P99),
				fmt.Sprintf("%.0f %%", 100*sum.Spread()), "", times(sum.P50, floor)}
			if c.Role == Subject {
				row[6] = times(sum.P50, peer)
			}
			if c.Role == Floor && sum.P50 == floor {
				row[7] = ""
			}
			b.rows = append(b.rows, row)
		}
		all = append(all, b)
	}
	return all
}

// best is the median of the best case with a role, 0 when there is none.
func (s SeriesResult) best(role Role, m Metric) (best float64) {
	for _, c := range s.byRole(role) {
		sum := c.Summary(m)
		if sum.N == 0 {
			continue
		}
		if best == 0 || m.HigherIsBetter == (sum.P50 > best) {
			best = sum.P50
		}
	}
	return best
}

func times(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f x", a/b)
}

// Figure shows three digits that count.
func Figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 3), v)
}

// machineLine says in one line where and when the figures were made.
func (r Result) machineLine() string {
	rounds := "full run"
	if r.Quick {
		rounds = "quick run"
	}
	return fmt.Sprintf("%s, %s of nearpath %s; Linux %s, %d x %s, %d MB, %s; load %.1f before and %.1f after, in %.0f s",
		r.Began.UTC().Format("2006-01-02 15:04 UTC"), rounds, r.Version, r.Machine.Kernel, r.Machine.Cores, r.Machine.CPU,
		r.Machine.MemoryMB, r.Machine.Go, r.LoadBefore, r.LoadAfter, r.Ended.Sub(r.Began).Seconds())
}

// Print writes the result's tables for a terminal.
func (r Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s: %s\n%s\n", r.Benchmark, r.What, r.machineLine())
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, s := range r.Series {
		fmt.Fprintf(table, "\n%s: %s\n", s.Name, s.What)
		for _, b := range s.blocks() {
			fmt.Fprintf(table, "%s\t%s\t\n", b.title, strings.Join(header, "\t"))
			for _, row := range b.rows {
				fmt.Fprintf(table, "%s\t\n", strings.Join(row, "\t"))
			}
		}
	}
	if err := errors.Join(table.Flush(), r.printGrowths(w)); err != nil {
		return err
	}
	for _, d := range r.Drifts() {
		fmt.Fprintf(w, "does not count: %s\n", d)
	}
	return nil
}

// markdown is the same for a page.
func (r Result) markdown() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s.\n", r.machineLine())
	for _, s := range r.Series {
		fmt.Fprintf(&out, "\n%s: %s\n", s.Name, s.What)
		for _, b := range s.blocks() {
			fmt.Fprintf(&out, "\n| %s | %s |\n|---|%s\n", b.title, strings.Join(header, " | "), strings.Repeat("---:|", len(header)))
			for _, row := range b.rows {
				fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
			}
		}
	}
	if growths := r.Growths(); len(growths) > 0 {
		fmt.Fprintf(&out, "\n| %s |\n%s|\n", strings.Join(growthHeader, " | "), strings.Repeat("|---", len(growthHeader)))
		for _, g := range growths {
			fmt.Fprintf(&out, "| %s |\n", strings.Join(g.row(), " | "))
		}
	}
	return out.Bytes()
}
