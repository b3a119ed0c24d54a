package upstream

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/cluster"
)

// The percentile is never below the one of the samples, and never above it by more than half.
func TestPercentile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		samples := rapid.SliceOfN(rapid.Int64Range(1, 5_000_000), rttEnough, rttWindow-1).Draw(rt, "microseconds")
		var r responseTimes
		for _, us := range samples {
			r.add(time.Duration(us) * time.Microsecond)
		}
		slices.Sort(samples)
		exact := time.Duration(samples[len(samples)-1-len(samples)/20]) * time.Microsecond
		if got := r.percentile95(); got < exact || got > exact+exact/2+time.Microsecond {
			rt.Errorf("95th percentile %v, exactly %v", got, exact)
		}
	})
}

func TestResponseTimesForget(t *testing.T) {
	t.Parallel()
	var r responseTimes
	if got := r.p95(); got != rttUnknown {
		t.Errorf("without samples: %v", got)
	}
	for range 1000 {
		r.add(time.Second)
	}
	for range 10 * rttWindow {
		r.add(time.Millisecond)
	}
	if got := r.p95(); got > 2*time.Millisecond {
		t.Errorf("long after it was slow: %v", got)
	}
}

// What a client sends is passed on as name, type, class and four flags.
func TestQuery(t *testing.T) {
	t.Parallel()
	m := new(dns.Msg).SetQuestion("WWW.Example.", dns.TypeAAAA)
	m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled, m.Authoritative = false, true, true, true
	m.SetEdns0(4096, true)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	q, err := newQuery(m)
	if err != nil {
		t.Fatal(err)
	}
	got := new(dns.Msg)
	if err := got.Unpack(q.message(nil, 7, false)); err != nil {
		t.Fatal(err)
	}
	opt := got.IsEdns0()
	if got.Id != 7 || got.RecursionDesired || !got.AuthenticatedData || !got.CheckingDisabled || got.Authoritative ||
		got.Question[0] != m.Question[0] || opt == nil || opt.UDPSize() != udpSize || !opt.Do() || len(opt.Option) > 0 {
		t.Errorf("the query is %v", got)
	}
	plain := new(dns.Msg)
	if err := plain.Unpack(q.message(nil, 7, true)); err != nil || plain.IsEdns0() != nil || len(plain.Question) != 1 {
		t.Errorf("without EDNS it is %v, %v", plain, err)
	}
	if _, err := newQuery(new(dns.Msg).SetQuestion(strings.Repeat("a", 64)+".example.", dns.TypeA)); err == nil {
		t.Error("a label of 64 bytes is a name")
	}
}

// Records that are not for the question are taken out; those of its aliases, zones and targets stay.
func TestScrub(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		qtype  uint16
		answer string
		ns     string
		extra  string
		want   string // the names that stay
	}{
		"addresses":       {dns.TypeA, "www.example. A 192.0.2.1|WWW.example. A 192.0.2.2", "", "", "www.example.|WWW.example."},
		"another's":       {dns.TypeA, "www.example. A 192.0.2.1|bank.test. A 192.0.2.66", "", "", "www.example."},
		"only another's":  {dns.TypeA, "bank.test. A 192.0.2.66", "", "", ""},
		"aliases":         {dns.TypeA, "www.example. CNAME a.test.|a.test. CNAME b.test.|b.test. A 192.0.2.1", "", "", "www.example.|a.test.|b.test."},
		"aliases, shaken": {dns.TypeA, "b.test. A 192.0.2.1|a.test. CNAME b.test.|www.example. CNAME a.test.|c.test. A 192.0.2.66", "", "", "b.test.|a.test.|www.example."},
		"a ring":          {dns.TypeA, "www.example. CNAME a.test.|a.test. CNAME www.example.", "", "", "www.example.|a.test."},
		"a tree":          {dns.TypeA, "example. DNAME test.|www.example. CNAME www.test.|www.test. A 192.0.2.1", "", "", "example.|www.example.|www.test."},
		"another tree":    {dns.TypeA, "test. DNAME example.|www.example. A 192.0.2.1", "", "", "www.example."},
		"zones above":     {dns.TypeA, "", "example. SOA ns.example. me.example. 1 2 3 4 5", "", "example."},
		"other zones":     {dns.TypeA, "", "test. SOA ns.test. me.test. 1 2 3 4 5|test. NS ns.test.|bank.test. A 192.0.2.66", "", ""},
		"zone of alias":   {dns.TypeA, "www.example. CNAME a.test.", "test. SOA ns.test. me.test. 1 2 3 4 5", "", "www.example.|test."},
		"proofs":          {dns.TypeA, "", "a.example. NSEC z.example. A", "", "a.example."},
		"targets":         {dns.TypeSRV, "www.example. SRV 1 1 80 a.test.", "", "a.test. A 192.0.2.1|b.test. A 192.0.2.66", "www.example.|a.test."},
		"other extras":    {dns.TypeSRV, "www.example. SRV 1 1 80 a.test.", "", "a.test. NS bank.test.", "www.example."},
		"name servers":    {dns.TypeA, "", "example. NS ns.test.", "ns.test. A 192.0.2.1", "example.|ns.test."},
		"everything":      {dns.TypeANY, "www.example. A 192.0.2.1|www.example. MX 1 a.test.", "", "a.test. A 192.0.2.1", "www.example.|www.example.|a.test."},
		"other class":     {dns.TypeA, "www.example. CH A 192.0.2.1", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := new(dns.Msg).SetQuestion("www.example.", tt.qtype)
			q, err := newQuery(client)
			if err != nil {
				t.Fatal(err)
			}
			m := new(dns.Msg).SetReply(client)
			m.Answer, m.Ns, m.Extra = records(t, tt.answer), records(t, tt.ns), records(t, tt.extra)
			before := len(m.Answer) + len(m.Ns) + len(m.Extra)
			m.SetEdns0(1232, false)
			gone := scrub(m, q)
			var left []string
			for _, r := range slices.Concat(m.Answer, m.Ns, m.Extra) {
				if r.Header().Rrtype != dns.TypeOPT {
					left = append(left, r.Header().Name)
				}
			}
			if got := strings.Join(left, "|"); got != tt.want || gone != before-len(left) || m.IsEdns0() == nil {
				t.Errorf("%q stay, %d are gone, want %q", got, gone, tt.want)
			}
		})
	}
}

func records(t *testing.T, text string) []dns.RR {
	t.Helper()
	var all []dns.RR
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '|' }) {
		r, err := dns.NewRR(strings.Replace(line, " ", " 30 ", 1))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// Clients that know EDNS hear what an upstream says of an error, and nothing else of its OPT.
func TestReplyTo(t *testing.T) {
	t.Parallel()
	shared := new(dns.Msg).SetReply(question("www.example."))
	shared.SetEdns0(4096, true)
	shared.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
	}
	if m := replyTo(question("www.example."), shared); m.IsEdns0() != nil {
		t.Errorf("a client without EDNS gets %v", m)
	}
	q := question("WWW.example.")
	q.SetEdns0(1232, false)
	m := replyTo(q, shared)
	if opt := m.IsEdns0(); opt == nil || len(opt.Option) != 1 || opt.Option[0].Option() != dns.EDNS0EDE || opt.Do() {
		t.Errorf("a client with EDNS gets %v", m)
	}
	if m.Question[0].Name != "WWW.example." || m.Id != q.Id || len(shared.IsEdns0().Option) != 2 {
		t.Errorf("the client gets %v, and there is %v left", m, shared)
	}
}

func TestServiceEndpoints(t *testing.T) {
	t.Parallel()
	name := cluster.Name{Namespace: "kube-system", Name: "kube-dns"}
	service := func(family string, ports ...cluster.ServicePort) *cluster.Service {
		return &cluster.Service{Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr(family)}, Ports: ports}
	}
	tcp53 := cluster.ServicePort{Name: "dns-tcp", Protocol: cluster.TCP, Port: 53}
	slice := func(n int, ports []cluster.EndpointPort, endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
		return &cluster.EndpointSlice{Name: cluster.Name{Namespace: "kube-system", Name: fmt.Sprint(n)}, Service: name, Ports: ports, Endpoints: endpoints}
	}
	ready := func(addr string) cluster.Endpoint {
		return cluster.Endpoint{Addr: netip.MustParseAddr(addr), Ready: true, Serving: true}
	}
	serving := func(addr string) cluster.Endpoint {
		return cluster.Endpoint{Addr: netip.MustParseAddr(addr), Serving: true, Terminating: true}
	}
	gone := cluster.Endpoint{Addr: netip.MustParseAddr("192.0.2.99")}
	ports := []cluster.EndpointPort{{Name: "dns", Protocol: cluster.UDP, Port: 1053}, {Name: "dns-tcp", Protocol: cluster.TCP, Port: 2053}, {Name: "metrics", Protocol: cluster.TCP, Port: 9153}}
	for what, tt := range map[string]struct {
		svc    *cluster.Service
		slices []*cluster.EndpointSlice
		over   Transport
		want   string
	}{
		"ready":           {service("10.96.0.10", tcp53), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.2"), ready("192.0.2.1"), serving("192.0.2.3"), gone)}, TCP, "[192.0.2.1:2053 192.0.2.2:2053]"},
		"in two slices":   {service("10.96.0.10", tcp53), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1")), slice(2, ports, ready("192.0.2.1"))}, TCP, "[192.0.2.1:2053]"},
		"none is ready":   {service("10.96.0.10", tcp53), []*cluster.EndpointSlice{slice(1, ports, serving("192.0.2.1"), gone)}, TCP, "[192.0.2.1:2053]"},
		"none":            {service("10.96.0.10", tcp53), nil, TCP, "[]"},
		"UDP":             {service("10.96.0.10", cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53}), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1"))}, UDPFirst, "[192.0.2.1:1053]"},
		"no such port":    {service("10.96.0.10", cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53}), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1"))}, TCP, "[]"},
		"two families":    {service("10.96.0.10", tcp53), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1")), slice(2, ports, ready("2001:db8::1"))}, TCP, "[192.0.2.1:2053]"},
		"IPv6 first":      {service("fd00::10", tcp53), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1")), slice(2, ports, ready("2001:db8::1"))}, TCP, "[[2001:db8::1]:2053]"},
		"only the other":  {service("fd00::10", tcp53), []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1"))}, TCP, "[192.0.2.1:2053]"},
		"without Service": {nil, []*cluster.EndpointSlice{slice(1, ports, ready("192.0.2.1"))}, TCP, "[192.0.2.1:2053]"},
		"a port alone":    {nil, []*cluster.EndpointSlice{slice(1, []cluster.EndpointPort{{Protocol: cluster.TCP, Port: 7}}, ready("192.0.2.1"))}, TCP, "[192.0.2.1:7]"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := cluster.NewStore()
			o := cluster.Objects{Slices: tt.slices}
			if tt.svc != nil {
				o.Services = []*cluster.Service{tt.svc}
			}
			store.Replace(o)
			if got := fmt.Sprint(serviceEndpoints(store.Snapshot(), name, tt.over)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// Two Upstreams with an endpoint in common share its connections; with the end of the first they stay, with that of the
// second they go.
func TestSharedEndpoints(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	synctest.Test(t, func(t *testing.T) {
		c := Config{Targets: at(TCP, "192.0.2.1")}
		first := n.upstream(t, c)
		took(t, first, "a.example.")
		before := (*first.members.Load())[0].endpoint
		c.Pool = first.Pool
		second := openIn(t, c)
		first.Close()
		took(t, second, "b.example.")
		if after := (*second.members.Load())[0].endpoint; after != before || before.life.Err() != nil {
			t.Error("the endpoint is another one, or has ended")
		}
		if made := n.dials[port53("192.0.2.1")]; made != 1 {
			t.Errorf("%d connections were made", made)
		}
		second.Close()
		if before.life.Err() == nil {
			t.Error("the endpoint goes on without users")
		}
	})
}

// An endpoint far away is asked when the near ones fail; all near ones are.
func TestNearest(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(to netip.AddrPort, _, _ string) time.Duration {
		if to == port53("192.0.2.3") {
			return 30 * time.Millisecond
		}
		return time.Millisecond
	}
	for policy, far := range map[Policy]bool{Nearest: false, Random: true, Sequential: false} {
		synctest.Test(t, func(t *testing.T) {
			u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1", "192.0.2.2", "192.0.2.3"), Policy: policy, NoHedge: true})
			warmUp(t, u)
			from := make(map[string]int)
			for i := range 100 {
				addr, _ := took(t, u, fmt.Sprintf("n%d.example.", i))
				from[addr]++
			}
			if from["192.0.2.3"] > 0 != far || from["192.0.2.2"] > 0 != (policy != Sequential) || from["192.0.2.1"] == 0 {
				t.Errorf("policy %d: answers from %v", policy, from)
			}
		})
	}
}

func TestMetricsTwice(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	first, err := NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewMetrics(r)
	if err != nil || second.dropped != first.dropped || second.duration != first.duration {
		t.Errorf("the second time there are others: %v", err)
	}
}
