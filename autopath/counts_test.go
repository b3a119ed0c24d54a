package autopath

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// A lookup of the table in docs/autopath.md.
var lookups = []struct {
	what, name string
	host       []string // search domains of the node
	types      []uint16
}{
	{"external", "www.example.com", nil, family[0]},
	{"external, IPv4 only", "www.example.com", nil, []uint16{dns.TypeA}},
	{"external, one search domain of the node", "www.example.com", []string{"corp.example.net."}, family[0]},
	{"Service of the own namespace", "cart", nil, family[0]},
	{"Service of another namespace", "db.other", nil, family[0]},
	{"Service in full", "db.other.svc.cluster.local", nil, family[0]},
	{"external that does not exist", "no.example.com", nil, family[0]},
	{"final dot", "www.example.com.", nil, family[0]},
}

// countsTable computes what clients ask, and what leaves the cluster the first time, without and with autopath.
func countsTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| name | glibc | musl | Go | to the outside |\n|---|---|---|---|---|\n")
	for _, l := range lookups {
		fmt.Fprintf(&b, "| %s: `%s` |", l.what, l.name)
		outside := ""
		for _, r := range []resolver{glibc, musl, golang} {
			w := world{ndots: ClusterNdots, types: l.types, search: append(slices.Clone(usual), l.host...), zone: &zone{names: map[string]entry{
				"www.example.com.":             {a: Data, aaaa: NoData},
				"cart.shop.svc.cluster.local.": {a: Data, aaaa: NoData},
				"db.other.svc.cluster.local.":  {a: Data, aaaa: NoData},
			}}}
			plain, plainOutside := w.count(t, r, l.name, nil)
			with, withOutside := w.count(t, r, l.name, newHandler(newScope(t, w.ndots, "cluster.local", w.search...), w.zone))
			fmt.Fprintf(&b, " %d → %d |", plain, with)
			if o := fmt.Sprintf("%d → %d", plainOutside, withOutside); outside == "" || o == outside {
				outside = o
			} else {
				t.Errorf("%s: resolvers differ in what leaves the cluster: %s and %s", l.what, outside, o)
			}
		}
		fmt.Fprintf(&b, " %s |\n", outside)
	}
	return b.String()
}

// count returns the questions of the client, and how many different ones leave the cluster: a cache answers the others.
func (w world) count(t *testing.T, r resolver, name string, through *Handler) (client, outside int) {
	t.Helper()
	w.zone.takeAsked()
	w.ask(t, func(c resolverConf, n network, name string) result {
		return r(c, func(name string, qtype uint16) *dns.Msg {
			client++
			return n(name, qtype)
		}, name)
	}, name, through)
	for _, question := range slices.Compact(w.zone.takeAsked()) {
		if !strings.HasSuffix(question, "cluster.local.") {
			outside++
		}
	}
	return client, outside
}

func TestCountsAreThoseOfTheDocs(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/autopath.md")
	if err != nil {
		t.Fatal(err)
	}
	if table := countsTable(t); !strings.Contains(string(docs), table) {
		t.Errorf("docs/autopath.md has not this table:\n%s", table)
	}
}
