package measure

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// A Scale says of which size a series is. Series of one Of measure the same at several sizes; the zero value is of none.
type Scale struct {
	Of   string  `json:"of,omitempty"`
	Size float64 `json:"size,omitempty"`
}

// A Growth is how the median of one metric of a case grows with the size.
type Growth struct {
	Of, Case       string
	Metric         Metric
	Sizes, Medians []float64 // beside each other, the smallest size first
	// Exponent is of the power of the size that fits best (least squares of the logarithms): 0 is the same at every size, 1 as
	// many times more as there is.
	Exponent float64
}

// String is the power.
func (g Growth) String() string { return fmt.Sprintf("size^%.2f", g.Exponent) }

// Growths are those of all metrics that have a figure above 0 at each of two sizes or more: a difference that vanishes in the noise
// grows with nothing.
func (r Result) Growths() (all []Growth) {
	var of []string
	for _, s := range r.Series {
		if s.Scale.Of != "" && !slices.Contains(of, s.Scale.Of) {
			of = append(of, s.Scale.Of)
		}
	}
	for _, name := range of {
		list := slices.DeleteFunc(slices.Clone(r.Series), func(s SeriesResult) bool { return s.Scale.Of != name })
		slices.SortStableFunc(list, func(a, b SeriesResult) int { return cmp.Compare(a.Scale.Size, b.Scale.Size) })
		for _, m := range list[0].Metrics {
			for _, c := range list[0].Cases {
				if g := grown(list, m, c.Name); len(g.Sizes) > 1 && g.Medians[0] > 0 && slices.Min(g.Medians) > 0 {
					g.Exponent = slope(logs(g.Sizes), logs(g.Medians))
					all = append(all, g)
				}
			}
		}
	}
	return all
}

// grown collects a case's medians. A size of 0 is without what is counted: nothing grows from there by a power.
func grown(list []SeriesResult, m Metric, name string) Growth {
	g := Growth{Of: list[0].Scale.Of, Case: name, Metric: m}
	for _, s := range list {
		for _, c := range s.Cases {
			if sum := c.Summary(m); c.Name == name && sum.N > 0 && s.Scale.Size > 0 {
				g.Sizes, g.Medians = append(g.Sizes, s.Scale.Size), append(g.Medians, sum.P50)
			}
		}
	}
	return g
}

func logs(values []float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = math.Log(v)
	}
	return out
}

// slope is that of the line through the points for which the squares of the distances in y are least. Two of x must differ.
func slope(x, y []float64) float64 {
	var sumX, sumY, sumXX, sumXY float64
	for i := range x {
		sumX, sumY = sumX+x[i], sumY+y[i]
		sumXX, sumXY = sumXX+x[i]*x[i], sumXY+x[i]*y[i]
	}
	n := float64(len(x))
	return (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
}

// growthHeader names the columns of the table of growth.
var growthHeader = []string{"grows with", "figure", "case", "p50 by size", "as"}

// row is one line of it.
func (g Growth) row() []string {
	points := make([]string, len(g.Sizes))
	for i := range g.Sizes {
		points[i] = fmt.Sprintf("%g: %s", g.Sizes[i], Figure(g.Medians[i]))
	}
	return []string{g.Of, fmt.Sprintf("%s, %s", g.Metric.What, g.Metric.Unit), g.Case, strings.Join(points, ", "), g.String()}
}

// printGrowths writes them as a table for a terminal; without any, nothing.
func (r Result) printGrowths(w io.Writer) error {
	growths := r.Growths()
	if len(growths) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\n%s\n", strings.Join(growthHeader, "\t"))
	for _, g := range growths {
		fmt.Fprintln(table, strings.Join(g.row(), "\t"))
	}
	return table.Flush()
}
