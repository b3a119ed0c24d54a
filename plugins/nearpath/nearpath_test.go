package nearpath

import (
	"context"
	"net/netip"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
)

func testStore() *cluster.Store {
	name := func(name string) cluster.Name { return cluster.Name{Namespace: "shop", Name: name} }
	external := func(service, target string) *cluster.Service {
		return &cluster.Service{Name: name(service), ExternalName: target}
	}
	store := cluster.NewStore()
	store.Replace(cluster.Objects{
		Namespaces: []string{"shop"},
		Services: []*cluster.Service{
			{Name: name("cart"), ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}},
			external("alias", "cart.shop.svc.cluster.local"),
			external("twice", "alias.shop.svc.cluster.local"),
			external("ping", "pong.shop.svc.cluster.local"),
			external("pong", "ping.shop.svc.cluster.local"),
			external("dangling", "nobody.shop.svc.cluster.local"),
			external("out", "www.example.com"),
		},
	})
	return store
}

// next answers every question with REFUSED, so that cases see where it went.
func next() plugin.Handler {
	return plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return dns.RcodeSuccess, w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeRefused))
	})
}

func testPlugin(store *cluster.Store) *Nearpath {
	return &Nearpath{
		Next:     next(),
		Zones:    plugin.Zones{"cluster.local.", "96.10.in-addr.arpa."},
		Domains:  []nodelocaldns.Zone{{Domain: "cluster.local.", TTL: 5}},
		Snapshot: store.Snapshot,
	}
}

func TestServeDNS(t *testing.T) {
	t.Parallel()
	const soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
	cname := func(from, to string) dns.RR {
		return test.CNAME(from + ".shop.svc.cluster.local. 5 IN CNAME " + to + ".shop.svc.cluster.local.")
	}
	cart := test.A("cart.shop.svc.cluster.local. 5 IN A 10.96.0.7")
	n := testPlugin(testStore())
	for _, tc := range []test.Case{
		{Qname: "cart.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{cart}},
		{Qname: "cart.shop.svc.cluster.local.", Qtype: dns.TypeAAAA, Ns: []dns.RR{test.SOA(soa)}},
		{Qname: "nobody.shop.svc.cluster.local.", Qtype: dns.TypeA, Rcode: dns.RcodeNameError, Ns: []dns.RR{test.SOA(soa)}},
		{Qname: "cluster.local.", Qtype: dns.TypeAXFR, Rcode: dns.RcodeRefused},
		{Qname: "7.0.96.10.in-addr.arpa.", Qtype: dns.TypePTR, Answer: []dns.RR{
			test.PTR("7.0.96.10.in-addr.arpa. 5 IN PTR cart.shop.svc.cluster.local."),
		}},
		{Qname: "alias.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{cname("alias", "cart"), cart}},
		{Qname: "alias.shop.svc.cluster.local.", Qtype: dns.TypeCNAME, Answer: []dns.RR{cname("alias", "cart")}},
		{Qname: "twice.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{cname("alias", "cart"), cart, cname("twice", "alias")}},
		{Qname: "ping.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{cname("ping", "pong"), cname("pong", "ping")}},
		{Qname: "dangling.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{cname("dangling", "nobody")}},
		{Qname: "out.shop.svc.cluster.local.", Qtype: dns.TypeA, Answer: []dns.RR{
			test.CNAME("out.shop.svc.cluster.local. 5 IN CNAME www.example.com."),
		}},
	} {
		checkCase(t, n, tc)
	}
}

// checkCase compares a response without the serial of its SOA, which is the time.
func checkCase(t *testing.T, n *Nearpath, tc test.Case) {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if code, err := n.ServeDNS(t.Context(), w, tc.Msg()); err != nil || !plugin.ClientWrite(code) {
		t.Fatalf("%s: status %d, %v", tc.Qname, code, err)
	}
	for _, rr := range w.Msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = 1
		}
	}
	if err := test.CNAMEOrder(w.Msg); err != nil && tc.Qname != "ping.shop.svc.cluster.local." { // a loop has no order
		t.Errorf("%s: %v", tc.Qname, err)
	}
	if err := test.SortAndCheck(w.Msg, tc); err != nil {
		t.Errorf("%s: %v in\n%v", tc.Qname, err, w.Msg)
	}
}

func TestWhatIsNotOursGoesToTheNextPlugin(t *testing.T) {
	t.Parallel()
	n := testPlugin(testStore())
	for _, tc := range []test.Case{
		{Qname: "www.example.com.", Qtype: dns.TypeA, Rcode: dns.RcodeRefused},
		{Qname: "99.0.96.10.in-addr.arpa.", Qtype: dns.TypePTR, Rcode: dns.RcodeRefused},
		{Qname: "1.2.0.192.in-addr.arpa.", Qtype: dns.TypePTR, Rcode: dns.RcodeRefused},
	} {
		checkCase(t, n, tc)
	}
}

func TestBeforeSync(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	n := testPlugin(store)
	if n.Ready() {
		t.Error("ready before sync")
	}
	checkCase(t, n, test.Case{Qname: "cart.shop.svc.cluster.local.", Qtype: dns.TypeA, Rcode: dns.RcodeServerFailure})
	store.Update((*cluster.Edit).MarkSynced)
	if !n.Ready() {
		t.Error("not ready after sync")
	}
}
