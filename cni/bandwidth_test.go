package cni

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLimitsOf(t *testing.T) {
	last := Limits{Ingress: 7_000, Egress: 8_000}
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		want        Limits
		complaint   string // parts that the error must have, separated by |
	}{
		{"no pod annotations", nil, Limits{}, ""},
		{"others", map[string]string{"kubernetes.io/bandwidth": "10M"}, Limits{}, ""},
		{"bits", map[string]string{annotationIngress: "10M", annotationEgress: "1Gi"}, Limits{10_000_000, 1 << 30}, ""},
		{"one direction", map[string]string{annotationEgress: "1e6"}, Limits{Egress: 1_000_000}, ""},
		{"the least and the most", map[string]string{annotationIngress: "1k", annotationEgress: "1P"}, Limits{minLimit, maxLimit}, ""},
		{"blanks", map[string]string{annotationIngress: " 10M\n"}, Limits{Ingress: 10_000_000}, ""},
		{"Terway's are bytes", map[string]string{annotationIngressTerway: "1m", annotationEgressTerway: "0.5KiB"}, Limits{8 << 20, 4096}, ""},
		{"Terway's without a unit", map[string]string{annotationEgressTerway: "125"}, Limits{Egress: 1000}, ""},
		{"Kubernetes' before Terway's", map[string]string{annotationIngress: "10M", annotationIngressTerway: "1M", annotationEgressTerway: "1M"},
			Limits{10_000_000, 8 << 20}, ""},
		{"a bad one keeps its direction", map[string]string{annotationIngress: "fast", annotationEgress: "10M"},
			Limits{last.Ingress, 10_000_000}, annotationIngress + `|"fast"|such as 10M`},
		{"a bad one is not made good by Terway's", map[string]string{annotationEgress: "-1", annotationEgressTerway: "1M"},
			Limits{Egress: last.Egress}, annotationEgress + `|"-1"|above zero`},
		{"zero", map[string]string{annotationIngress: "0"}, Limits{Ingress: last.Ingress}, "above zero|remove"},
		{"milli", map[string]string{annotationIngress: "10m"}, Limits{Ingress: last.Ingress}, `"10m"|thousandth|M`},
		{"too little", map[string]string{annotationIngress: "999"}, Limits{Ingress: last.Ingress}, "less than 1k"},
		{"a little too little", map[string]string{annotationIngress: "999500m"}, Limits{Ingress: last.Ingress}, "less than 1k"},
		{"too much", map[string]string{annotationIngress: "1001T"}, Limits{Ingress: last.Ingress}, "more than 1P"},
		{"far too much", map[string]string{annotationIngress: "1e30"}, Limits{Ingress: last.Ingress}, "more than 1P"},
		{"empty", map[string]string{annotationIngress: "", annotationEgressTerway: ""}, last, annotationIngress + "|" + annotationEgressTerway},
		{"Terway's unit", map[string]string{annotationEgressTerway: "10Mbit"}, Limits{Egress: last.Egress}, "bytes per second"},
		{"Terway's range", map[string]string{annotationEgressTerway: "124", annotationIngressTerway: "1000T"}, last, annotationEgressTerway + "|" + annotationIngressTerway},
		{"Terway's oddities", map[string]string{annotationEgressTerway: "NaN", annotationIngressTerway: "INF"}, last, "NaN|INF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := LimitsOf(tt.annotations, last)
			if got != tt.want {
				t.Errorf("limits are %+v, want %+v", got, tt.want)
			}
			if (err != nil) != (tt.complaint != "") {
				t.Fatalf("error is %v", err)
			}
			for part := range strings.SplitSeq(tt.complaint, "|") {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not have %q", err, part)
				}
			}
		})
	}
}

// TestLimitsAreInRange: whatever is written, a limit is what was before, none, or in the range.
func TestLimitsAreInRange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.StringMatching(`-?[0-9]{0,25}(\.[0-9]{0,4})?(e[0-9]{1,3})? ?[numkMGTPEKi]{0,2}[bB]?`)).Draw(rt, "value")
		name := rapid.SampledFrom([]string{annotationIngress, annotationIngressTerway}).Draw(rt, "name")
		last := Limits{Ingress: 4242}
		got, err := LimitsOf(map[string]string{name: value}, last)
		if err != nil && got != last || err == nil && (got.Ingress < minLimit || got.Ingress > maxLimit) || got.Egress != 0 {
			rt.Fatalf("limits are %+v, error %v", got, err)
		}
	})
}

func TestParseBandwidth(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want Limits
		bad  bool
	}{
		{`{"ingressRate": 10000000, "ingressBurst": 4294967295, "egressRate": 0, "egressBurst": 0}`, Limits{Ingress: 10_000_000}, false},
		{`{"egressRate": 1000}`, Limits{Egress: 1000}, false},
		{`{}`, Limits{}, false},
		{`{"egressRate": 999}`, Limits{}, true},
		{`{"ingressRate": 1000000000000001}`, Limits{}, true},
		{`{"ingressRate": -1}`, Limits{}, true},
		{`{"ingressRate": "10M"}`, Limits{}, true},
		{`[]`, Limits{}, true},
	} {
		got, err := parseBandwidth([]byte(tt.raw))
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%s: %+v, %v", tt.raw, got, err)
		}
	}
}
