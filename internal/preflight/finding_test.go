package preflight

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	is := func(object string, s Severity, result, value string) Finding {
		return Finding{Check: "c", Object: object, Severity: s, Result: result, Values: [2]string{value}}
	}
	for name, tc := range map[string]struct {
		before, after []Finding
		want          []Change
	}{
		"a problem at first": {nil, []Finding{is("a", Error, "r", "1")}, []Change{{Finding: is("a", Error, "r", "1")}}},
		"all well at first":  {nil, []Finding{is("a", OK, "ready", "1")}, nil},
		"the same":           {[]Finding{is("a", Error, "r", "1")}, []Finding{is("a", Error, "r", "1")}, nil},
		"other values":       {[]Finding{is("a", Warning, "r", "1")}, []Finding{is("a", Warning, "r", "2")}, nil},
		"another result":     {[]Finding{is("a", Error, "r", "1")}, []Finding{is("a", Error, "s", "1")}, []Change{{Finding: is("a", Error, "s", "1")}}},
		"worse":              {[]Finding{is("a", Warning, "r", "1")}, []Finding{is("a", Error, "r", "1")}, []Change{{Finding: is("a", Error, "r", "1")}}},
		"unknown now":        {[]Finding{is("a", Error, "r", "1")}, []Finding{is("a", Unknown, "u", "")}, []Change{{Finding: is("a", Unknown, "u", "")}}},
		"well again":         {[]Finding{is("a", Error, "r", "1")}, []Finding{is("a", OK, "ready", "")}, []Change{{Finding: is("a", Error, "r", "1"), Resolved: true}}},
		"gone":               {[]Finding{is("a", Error, "r", "1")}, nil, []Change{{Finding: is("a", Error, "r", "1"), Resolved: true}}},
		"gone when well":     {[]Finding{is("a", OK, "ready", "1")}, nil, nil},
		"another object": {[]Finding{is("a", Error, "r", "1")}, []Finding{is("b", Error, "r", "1")}, []Change{
			{Finding: is("b", Error, "r", "1")}, {Finding: is("a", Error, "r", "1"), Resolved: true},
		}},
	} {
		if diff := cmp.Diff(tc.want, Diff(tc.before, tc.after)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Whoever follows the changes knows what is wrong.
func TestChangesAddUp(t *testing.T) {
	t.Parallel()
	findings := rapid.Custom(func(t *rapid.T) []Finding {
		return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Finding {
			return Finding{
				Check: rapid.SampledFrom([]string{"c", "d"}).Draw(t, "check"), Object: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "object"),
				Severity: Severity(rapid.IntRange(0, 3).Draw(t, "severity")), Result: rapid.SampledFrom([]string{"r", "s"}).Draw(t, "result"),
			}
		}), 0, 4, Finding.key).Draw(t, "findings")
	})
	rapid.Check(t, func(t *rapid.T) {
		wrong := map[findingKey]Finding{}
		var before []Finding
		for _, after := range rapid.SliceOfN(findings, 1, 5).Draw(t, "looks") {
			for _, c := range Diff(before, after) {
				if c.Resolved {
					delete(wrong, c.key())
				} else {
					wrong[c.key()] = c.Finding
				}
			}
			want := map[findingKey]Finding{}
			for _, f := range after {
				if f.Severity != OK {
					want[f.key()] = f
				}
			}
			if diff := cmp.Diff(want, wrong, cmp.AllowUnexported(findingKey{})); diff != "" {
				t.Fatalf("by the changes (-want +got):\n%s", diff)
			}
			before = after
		}
	})
}
