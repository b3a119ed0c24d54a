package autopath

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestNewScope(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		search  []string
		ndots   int
		domain  string
		want    string
		wantErr string
	}{
		"a pod's": {
			[]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.test"}, 5, "cluster.local",
			"search shop.svc.cluster.local.(local) svc.cluster.local.(local) cluster.local.(local) corp.test. ndots 5", "",
		},
		"without a domain": {
			[]string{"shop.svc.cluster.local", "cluster.local", "web.svc.cluster.local"}, 5, "",
			"search shop.svc.cluster.local.(local) cluster.local.(local) web.svc.cluster.local. ndots 5", "",
		},
		"case and dots":      {[]string{"Shop.TEST.", "shop.test"}, 5, "", "search shop.test.(local) ndots 5", ""},
		"escapes":            {[]string{`\115hop.test`, "shop.test"}, 5, "", "search shop.test.(local) ndots 5", ""},
		"root":               {[]string{"a.test", "."}, 5, "", "search a.test.(local) . ndots 5", ""},
		"empty elements":     {[]string{"", "a.test", ""}, 5, "", "search a.test.(local) ndots 5", ""},
		"no element":         {[]string{""}, 5, "", "no search", ""},
		"many dots":          {[]string{"a.test"}, 99, "", "search a.test.(local) ndots 15", ""},
		"fewer than no dots": {[]string{"a.test"}, -1, "", "search a.test.(local) ndots 0", ""},
		"dot in a label":     {[]string{`a\.b.test`}, 5, "", "", "characters that no host name has"},
		"space":              {[]string{`a\032b.test`}, 5, "", "", "characters that no host name has"},
		"empty label":        {[]string{"a..test"}, 5, "", "", "is not a domain name"},
		"long label":         {[]string{strings.Repeat("a", 64)}, 5, "", "", "is not a domain name"},
		"long name":          {[]string{strings.Repeat("a.", 128)}, 5, "", "", "is not a domain name"},
		"bad domain":         {[]string{"a.test"}, 5, "a..b", "", `domain: "a..b"`},
		"too many":           {strings.Fields(strings.Repeat("x ", 33)), 5, "", "search x.(local) ndots 5", ""}, // they are one
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := NewScope(tt.search, tt.ndots, tt.domain)
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if err == nil && s.String() != tt.want {
				t.Errorf("%s, want %s", s, tt.want)
			}
		})
	}
	var many []string
	for c := range 33 {
		many = append(many, string(rune('a'+c%26))+strings.Repeat("x", c)+".test")
	}
	if _, err := NewScope(many, 5, ""); err == nil || !strings.Contains(err.Error(), "more than 32") {
		t.Errorf("33 domains: %v", err)
	}
}

func TestScopesOfOneSearchAreEqual(t *testing.T) {
	t.Parallel()
	a, b := newScope(t, 5, "test", "a.test", "b.test"), newScope(t, 5, "TEST.", "A.test.", "b.test")
	if a != b {
		t.Errorf("%v is not %v", a, b)
	}
	if c := newScope(t, 4, "test", "a.test", "b.test"); a == c {
		t.Errorf("%v is %v", a, c)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l.", 100)
	for name, tt := range map[string]struct {
		scope Scope
		name  string
		want  []Candidate
	}{
		"dotted": {shopScope(t, "corp.test"), "WWW.example.shop.svc.cluster.local.", []Candidate{
			{Name: "WWW.example.shop.svc.cluster.local.", Local: true},
			{Name: "WWW.example.svc.cluster.local.", Local: true},
			{Name: "WWW.example.cluster.local.", Local: true},
			{Name: "WWW.example.corp.test."},
			{Name: "WWW.example."},
		}},
		"one label": {shopScope(t, "corp.test"), "db.shop.svc.cluster.local.", []Candidate{
			{Name: "db.shop.svc.cluster.local.", Local: true},
			{Name: "db.svc.cluster.local.", Local: true},
			{Name: "db.cluster.local.", Local: true},
		}},
		"one label, the cluster after the host": {newScope(t, 5, "c", "a.c", "test", "c"), "db.a.c.", []Candidate{
			{Name: "db.a.c.", Local: true},
		}},
		"root at the end": {newScope(t, 5, "", "a.test", "."), "x.y.a.test.", []Candidate{
			{Name: "x.y.a.test.", Local: true}, {Name: "x.y."},
		}},
		"root between": {newScope(t, 5, "", "a.test", ".", "b.test"), "x.y.a.test.", []Candidate{
			{Name: "x.y.a.test.", Local: true}, {Name: "x.y.", Disputed: true}, {Name: "x.y.b.test."}, {Name: "x.y."},
		}},
		"too long": {newScope(t, 5, "", "a.test", long), strings.Repeat("m", 60) + ".y.a.test.", []Candidate{
			{Name: strings.Repeat("m", 60) + ".y.a.test.", Local: true},
			{Name: strings.Repeat("m", 60) + ".y." + long, Disputed: true},
			{Name: strings.Repeat("m", 60) + ".y."},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, reason := tt.scope.Plan(tt.name, dns.TypeA)
			if diff := cmp.Diff(tt.want, p.Candidates); diff != "" || reason != NoReason {
				t.Errorf("%v: %s", reason, diff)
			}
		})
	}
}

// Whatever bytes a question and a search list are made of: what Plan takes off the name is the first element, label by
// label as on the wire, and every candidate it may ask for fits into a message.
func FuzzPlan(f *testing.F) {
	f.Add([]byte("\x03www\x07example\x04shop\x03svc\x00"), "shop.svc svc", 5)
	f.Add([]byte("\x02db\x04SHOP\x03svC\x00"), "shop.svc. svc.", 5)
	f.Add([]byte("\x08www.shop\x03svc\x00"), "shop.svc", 5)
	f.Add([]byte("\x04www\\\x04shop\x03svc\x00"), "shop.svc", 5)
	f.Add([]byte("\x03a\x00b\x01c\x04shop\x03svc\x00"), `\115hop.svc .`, 1)
	f.Add(append(bytes.Repeat([]byte("\x01l"), 120), "\x01a\x00"...), "a "+strings.Repeat("z.", 100), 15)
	f.Fuzz(func(t *testing.T, wire []byte, search string, ndots int) {
		name, end, err := dns.UnpackDomainName(wire, 0)
		if err != nil {
			return
		}
		scope, err := NewScope(strings.Fields(search), ndots, "")
		if err != nil {
			return
		}
		labels := wireLabels(wire[:end])
		p, reason := scope.Plan(name, dns.TypeA)
		if scope.Searches(name, dns.TypeA) != (reason == NoReason) {
			t.Fatalf("%q of %v is planned with reason %v, and searched: %v", name, scope, reason, scope.Searches(name, dns.TypeA))
		}
		if labels == nil || reason != NoReason {
			return
		}
		first := strings.Split(strings.TrimSuffix(scope.Search()[0], "."), ".")
		base := strings.Split(p.Base, ".")
		if got := append(slices.Clone(base), first...); !slices.EqualFunc(labels, got, func(a, b string) bool { return lower(a) == lower(b) }) {
			t.Fatalf("%q is not %q below %q", labels, base, first)
		}
		if len(base)-1 >= scope.Ndots() {
			t.Fatalf("%q has the dots that %v asks for", p.Base, scope)
		}
		for _, c := range p.Candidates {
			var buf [255]byte
			if _, err := dns.PackDomainName(c.Name, buf[:], 0, nil, false); (err != nil) != c.Disputed && c.Name != p.Base+"." {
				t.Fatalf("%q: %v, disputed %v", c.Name, err, c.Disputed)
			}
		}
	})
}

// wireLabels returns the labels of a name without compression, nil for another.
func wireLabels(wire []byte) []string {
	labels := []string{}
	for len(wire) > 0 && wire[0] > 0 {
		n := int(wire[0])
		if n > 63 || n >= len(wire) {
			return nil
		}
		labels = append(labels, string(wire[1:1+n]))
		wire = wire[1+n:]
	}
	return labels
}

func TestParseResolvConf(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   string
		want ResolvConf
	}{
		"a pod's": {
			"search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			ResolvConf{Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Ndots: 5, NdotsSet: true},
		},
		"empty":         {"", ResolvConf{Ndots: 1}},
		"last one":      {"search a b\ndomain c d\n", ResolvConf{Search: []string{"c"}, Ndots: 1}},
		"tabs, no end":  {"search\ta  b", ResolvConf{Search: []string{"a", "b"}, Ndots: 1}},
		"comments":      {"search c\n# search a\n;search b\n", ResolvConf{Search: []string{"c"}, Ndots: 1}},
		"other options": {"options edns0 ndots:2 rotate\noptions trust-ad\n", ResolvConf{Ndots: 2, NdotsSet: true}},
		"no number":     {"options ndots:x\n", ResolvConf{Ndots: 0, NdotsSet: true}},
		"large":         {"options ndots:99999999999999999999\n", ResolvConf{Ndots: 15, NdotsSet: true}},
		"no value":      {"search\noptions\n", ResolvConf{Ndots: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, ParseResolvConf(tt.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the file says, it is within the limits, and what we took from it reads back as it is.
func FuzzParseResolvConf(f *testing.F) {
	f.Add("search a b\noptions ndots:5\n")
	f.Add("domain x\nsearch\ty # z\noptions ndots:-1 ndots:16")
	f.Add("options ndots:007x\r\nsearch a\x00b \xff")
	f.Fuzz(func(t *testing.T, text string) {
		c := ParseResolvConf(text)
		if c.Ndots < 0 || c.Ndots > maxNdots {
			t.Fatalf("ndots %d", c.Ndots)
		}
		if len(c.Search) > 0 {
			if again := ParseResolvConf("search " + strings.Join(c.Search, " ")); !slices.Equal(again.Search, c.Search) {
				t.Fatalf("%q reads back as %q", c.Search, again.Search)
			}
		}
		if s, err := NewScope(c.Search, c.Ndots, ""); err == nil {
			s.Plan("a.b.test.", dns.TypeA)
		}
	})
}
