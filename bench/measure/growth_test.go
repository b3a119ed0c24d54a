package measure

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

// scaled is a series of one size, in which each case has one figure.
func scaled(size float64, figures map[string]float64) SeriesResult {
	s := SeriesResult{Name: "s", Metrics: []Metric{speed}, Scale: Scale{Of: "things", Size: size}}
	for _, name := range []string{"flat", "linear", "none"} {
		s.Cases = append(s.Cases, CaseResult{Name: name, Role: Subject, Samples: map[string][][]float64{"speed": {{figures[name]}}}})
	}
	return s
}

func TestGrowths(t *testing.T) {
	t.Parallel()
	r := Result{Series: []SeriesResult{
		scaled(1000, map[string]float64{"flat": 5, "linear": 200, "none": 1}),
		scaled(0, map[string]float64{"flat": 1, "linear": 1, "none": 1}),
		scaled(10, map[string]float64{"flat": 5, "linear": 2, "none": -1}),
		{Name: "of no size", Metrics: []Metric{speed}},
	}}
	got := r.Growths()
	if len(got) != 2 || got[0].Case != "flat" || got[1].Case != "linear" {
		t.Fatalf("got %+v, want those of flat and linear: the third has a figure that is below 0", got)
	}
	if math.Abs(got[0].Exponent) > 1e-9 || math.Abs(got[1].Exponent-1) > 1e-9 {
		t.Errorf("exponents %g and %g, want 0 and 1", got[0].Exponent, got[1].Exponent)
	}
	var terminal bytes.Buffer
	if err := r.printGrowths(&terminal); err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"terminal": terminal.String(), "page": string(r.markdown())} {
		if !strings.Contains(text, "10: 2.00, 1000: 200") || !strings.Contains(text, "size^1.00") {
			t.Errorf("the %s says:\n%s", where, text)
		}
	}
}

func TestNothingGrows(t *testing.T) {
	t.Parallel()
	r := Result{Series: []SeriesResult{scaled(10, map[string]float64{"flat": 1, "linear": 1, "none": 1})}}
	var out bytes.Buffer
	if err := r.printGrowths(&out); err != nil || out.Len() > 0 || len(r.Growths()) > 0 {
		t.Errorf("%q, %v: one size is no growth", out.String(), err)
	}
}
