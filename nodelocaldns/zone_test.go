package nodelocaldns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func service(name string, clusterIPs ...string) *cluster.Service {
	return &cluster.Service{Name: cluster.Name{Namespace: "shop", Name: name}, ClusterIPs: addrs(clusterIPs...)}
}

func slice(service, name string, ports []cluster.EndpointPort, endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
	return &cluster.EndpointSlice{
		Name:      cluster.Name{Namespace: "shop", Name: name},
		Service:   cluster.Name{Namespace: "shop", Name: service},
		Ports:     ports,
		Endpoints: endpoints,
	}
}

func endpoint(addr, hostname string) cluster.Endpoint {
	return cluster.Endpoint{Addr: netip.MustParseAddr(addr), Hostname: hostname, Ready: true, Serving: true}
}

func unready(addr, hostname string) cluster.Endpoint {
	e := endpoint(addr, hostname)
	e.Ready = false
	return e
}

// testObjects is one of each kind of Service.
func testObjects() cluster.Objects {
	cart := service("cart", "10.96.0.7", "fd00::7")
	cart.Ports = []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}, {Name: "dns", Protocol: cluster.UDP, Port: 53}}
	single := service("4single", "10.96.0.8")
	single.Ports = []cluster.ServicePort{{Protocol: cluster.TCP, Port: 443}}
	kubeDNS := service("kube-dns", "10.96.0.10")
	kubeDNS.Name.Namespace = "kube-system"
	headless := func(name string) *cluster.Service {
		svc := service(name)
		svc.Headless = true
		return svc
	}
	external := func(name, target string) *cluster.Service {
		svc := service(name)
		svc.ExternalName = target
		return svc
	}
	pending := headless("pending")
	pending.PublishNotReady = true
	peer := []cluster.EndpointPort{{Name: "peer", Protocol: cluster.TCP, Port: 7000}}
	client := []cluster.EndpointPort{{Name: "client", Protocol: cluster.TCP, Port: 7001}}
	return cluster.Objects{
		Namespaces: []string{"shop", "empty", "kube-system"},
		Services: []*cluster.Service{
			cart, single, kubeDNS, service("noaddr"),
			headless("db"), headless("six"), headless("none"), headless("portless"), headless("moving"), pending,
			external("ext", "www.example.com"), external("literal", "192.0.2.1"), external("self", "SELF.shop.svc.cluster.local."),
			external("invalid", "a..b"),
			{Name: cluster.Name{Namespace: "gone", Name: "cart"}, ClusterIPs: addrs("10.96.0.99")},
		},
		Slices: []*cluster.EndpointSlice{
			slice("cart", "cart-1", peer, endpoint("10.0.0.1", ""), unready("10.0.0.2", "")),
			slice("db", "db-1", peer, endpoint("10.0.1.1", "db-0"), endpoint("10.0.1.2", "db-1"), endpoint("10.0.1.3", "db-1"), endpoint("10.0.1.4", "")),
			slice("db", "db-2", peer, unready("10.0.1.5", "db-5")),
			slice("db", "db-6", peer, endpoint("fd00::1:1", "db-0")),
			slice("six", "six-1", peer, endpoint("fd00::2:0:0", ""), endpoint("fd00:2::", "")),
			slice("none", "none-1", peer, unready("10.0.2.1", "none-0")),
			slice("portless", "portless-1", nil, endpoint("10.0.3.1", "")),
			slice("moving", "moving-1", peer, endpoint("10.0.4.1", "")),
			slice("moving", "moving-2", append(client, peer...), endpoint("10.0.4.1", "")),
			slice("pending", "pending-1", peer, unready("10.0.5.1", "pending-0")),
			slice("ext", "ext-1", peer, endpoint("10.0.6.1", "")),
			slice("deleted", "deleted-1", peer, endpoint("10.0.7.1", "")),
		},
	}
}

func testSnapshot() *cluster.Snapshot {
	store := cluster.NewStore()
	store.Replace(testObjects())
	return store.Snapshot()
}

var testZone = Zone{Domain: "cluster.local", TTL: 30}

// text renders a result as one word for the status and one line for each record.
func text(t errorer, r Result) string {
	t.Helper()
	if !r.Ours {
		return "not ours"
	}
	lines := []string{dns.RcodeToString[r.Rcode]}
	if r.Rcode == dns.RcodeSuccess && len(r.Answer) == 0 {
		lines[0] = "NODATA"
	}
	negative := lines[0] == "NODATA" || lines[0] == "NXDOMAIN"
	if negative && !hasSOA(r) {
		t.Errorf("a negative answer without its SOA: %v", r.Ns)
	}
	if r.Authoritative != (negative || len(r.Answer) > 0) {
		t.Errorf("%s: authoritative %t", lines[0], r.Authoritative)
	}
	for section, rrs := range map[string][]dns.RR{"": r.Answer, "+ ": r.Extra} {
		for _, rr := range rrs {
			lines = append(lines, section+strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	if r.Chase != "" {
		lines = append(lines, "chase "+r.Chase)
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

func hasSOA(r Result) bool {
	if len(r.Ns) != 1 {
		return false
	}
	soa, ok := r.Ns[0].(*dns.SOA)
	return ok && soa.Minttl == testZone.TTL && soa.Hdr.Ttl == testZone.TTL && soa.Serial > 0 &&
		strings.EqualFold(soa.Hdr.Name, "cluster.local.") && soa.Ns == "ns.dns.cluster.local." && soa.Mbox == "hostmaster.cluster.local."
}

func question(name string, qtype uint16) dns.Question {
	return dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
}

type zoneCase struct {
	name  string
	qtype uint16
	want  []string
}

func runZoneCases(t *testing.T, cases map[string]zoneCase) {
	t.Helper()
	snapshot := testSnapshot()
	for what, tt := range cases {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			got := text(t, testZone.Answer(snapshot, question(tt.name, tt.qtype)))
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), got); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", tt.name, dns.TypeToString[tt.qtype], diff)
			}
		})
	}
}

func want(lines ...string) []string { return lines }

func TestClusterIPNames(t *testing.T) {
	t.Parallel()
	runZoneCases(t, map[string]zoneCase{
		"A":            {"cart.shop.svc.cluster.local.", dns.TypeA, want("NOERROR", "cart.shop.svc.cluster.local. 30 IN A 10.96.0.7")},
		"AAAA":         {"cart.shop.svc.cluster.local.", dns.TypeAAAA, want("NOERROR", "cart.shop.svc.cluster.local. 30 IN AAAA fd00::7")},
		"case is kept": {"CaRt.shop.SVC.cluster.Local.", dns.TypeA, want("NOERROR", "CaRt.shop.SVC.cluster.Local. 30 IN A 10.96.0.7")},
		"other family": {"4single.shop.svc.cluster.local.", dns.TypeAAAA, want("NODATA")},
		"other type":   {"cart.shop.svc.cluster.local.", dns.TypeMX, want("NODATA")},
		"any type":     {"cart.shop.svc.cluster.local.", dns.TypeANY, want("NODATA")},
		"no address":   {"noaddr.shop.svc.cluster.local.", dns.TypeA, want("NODATA")},
		"SRV of a named port": {"_http._tcp.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NOERROR",
			"+ cart.shop.svc.cluster.local. 30 IN A 10.96.0.7", "+ cart.shop.svc.cluster.local. 30 IN AAAA fd00::7",
			"_http._tcp.cart.shop.svc.cluster.local. 30 IN SRV 0 50 80 cart.shop.svc.cluster.local.")},
		"SRV of any port of a protocol": {"_._UDP.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NOERROR",
			"+ cart.shop.svc.cluster.local. 30 IN A 10.96.0.7", "+ cart.shop.svc.cluster.local. 30 IN AAAA fd00::7",
			"_._UDP.cart.shop.svc.cluster.local. 30 IN SRV 0 50 53 cart.shop.svc.cluster.local.")},
		"SRV at the service name": {"4single.shop.svc.cluster.local.", dns.TypeSRV, want("NOERROR",
			"+ 4single.shop.svc.cluster.local. 30 IN A 10.96.0.8",
			"4single.shop.svc.cluster.local. 30 IN SRV 0 100 443 4single.shop.svc.cluster.local.")},
		"SRV of a Service without ports":  {"noaddr.shop.svc.cluster.local.", dns.TypeSRV, want("NODATA")},
		"port of another protocol":        {"_http._udp.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"port that does not exist":        {"_x._tcp.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"unnamed port has no SRV name":    {"_http._tcp.4single.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"other type of a port":            {"_http._tcp.cart.shop.svc.cluster.local.", dns.TypeA, want("NODATA")},
		"port without underscores":        {"http.tcp.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"protocol alone":                  {"_tcp.cart.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"endpoint":                        {"10-0-0-1.cart.shop.svc.cluster.local.", dns.TypeA, want("NOERROR", "10-0-0-1.cart.shop.svc.cluster.local. 30 IN A 10.0.0.1")},
		"endpoint that is not ready":      {"10-0-0-2.cart.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"too many labels":                 {"a._http._tcp.cart.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"wildcard":                        {"*.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"unknown service":                 {"x.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"unknown namespace":               {"cart.x.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"service in a deleted namespace":  {"cart.gone.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"slices without a Service":        {"deleted.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"Service name without namespaces": {"cart.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
	})
}

func TestHeadlessNames(t *testing.T) {
	t.Parallel()
	const db = "db.shop.svc.cluster.local."
	runZoneCases(t, map[string]zoneCase{
		"every ready endpoint": {db, dns.TypeA, want("NOERROR",
			db+" 30 IN A 10.0.1.1", db+" 30 IN A 10.0.1.2", db+" 30 IN A 10.0.1.3", db+" 30 IN A 10.0.1.4")},
		"the other family":               {db, dns.TypeAAAA, want("NOERROR", db+" 30 IN AAAA fd00::1:1")},
		"other type":                     {db, dns.TypeTXT, want("NODATA")},
		"one family only":                {"six.shop.svc.cluster.local.", dns.TypeA, want("NODATA")},
		"none ready":                     {"none.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"none ready, name":               {"none-0.none.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"none ready, SRV":                {"_peer._tcp.none.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"published although unready":     {"pending.shop.svc.cluster.local.", dns.TypeA, want("NOERROR", "pending.shop.svc.cluster.local. 30 IN A 10.0.5.1")},
		"hostname":                       {"db-0." + db, dns.TypeA, want("NOERROR", "db-0."+db+" 30 IN A 10.0.1.1")},
		"hostname, other family":         {"DB-0." + db, dns.TypeAAAA, want("NOERROR", "DB-0."+db+" 30 IN AAAA fd00::1:1")},
		"hostname of several":            {"db-1." + db, dns.TypeA, want("NOERROR", "db-1."+db+" 30 IN A 10.0.1.2", "db-1."+db+" 30 IN A 10.0.1.3")},
		"hostname, family it has not":    {"db-1." + db, dns.TypeAAAA, want("NODATA")},
		"hostname of an unready one":     {"db-5." + db, dns.TypeA, want("NXDOMAIN")},
		"system-made name":               {"10-0-1-4." + db, dns.TypeA, want("NOERROR", "10-0-1-4."+db+" 30 IN A 10.0.1.4")},
		"no such name beside a hostname": {"10-0-1-1." + db, dns.TypeA, want("NXDOMAIN")},
		"system-made IPv6 name": {"fd00--2-0-0.six.shop.svc.cluster.local.", dns.TypeAAAA, want("NOERROR",
			"fd00--2-0-0.six.shop.svc.cluster.local. 30 IN AAAA fd00::2:0:0")},
		"system-made IPv6 name that would end in a dash": {"fd00-2--0.six.shop.svc.cluster.local.", dns.TypeAAAA, want("NOERROR",
			"fd00-2--0.six.shop.svc.cluster.local. 30 IN AAAA fd00:2::")},
		"SRV": {"_peer._tcp." + db, dns.TypeSRV, want("NOERROR",
			"+ 10-0-1-4."+db+" 30 IN A 10.0.1.4", "+ db-0."+db+" 30 IN A 10.0.1.1", "+ db-0."+db+" 30 IN AAAA fd00::1:1",
			"+ db-1."+db+" 30 IN A 10.0.1.2", "+ db-1."+db+" 30 IN A 10.0.1.3",
			"_peer._tcp."+db+" 30 IN SRV 0 20 7000 10-0-1-4."+db, "_peer._tcp."+db+" 30 IN SRV 0 20 7000 db-0."+db,
			"_peer._tcp."+db+" 30 IN SRV 0 20 7000 db-1."+db)},
		"SRV of no such port":  {"_x._tcp." + db, dns.TypeSRV, want("NXDOMAIN")},
		"portless":             {"portless.shop.svc.cluster.local.", dns.TypeA, want("NOERROR", "portless.shop.svc.cluster.local. 30 IN A 10.0.3.1")},
		"portless SRV":         {"portless.shop.svc.cluster.local.", dns.TypeSRV, want("NODATA")},
		"portless SRV of port": {"_._tcp.portless.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"in two slices at once": {"moving.shop.svc.cluster.local.", dns.TypeA, want("NOERROR",
			"moving.shop.svc.cluster.local. 30 IN A 10.0.4.1")},
		"in two slices with different ports": {"moving.shop.svc.cluster.local.", dns.TypeSRV, want("NOERROR",
			"+ 10-0-4-1.moving.shop.svc.cluster.local. 30 IN A 10.0.4.1",
			"moving.shop.svc.cluster.local. 30 IN SRV 0 50 7000 10-0-4-1.moving.shop.svc.cluster.local.",
			"moving.shop.svc.cluster.local. 30 IN SRV 0 50 7001 10-0-4-1.moving.shop.svc.cluster.local.")},
	})
}

func TestExternalNames(t *testing.T) {
	t.Parallel()
	const cname = "ext.shop.svc.cluster.local. 30 IN CNAME www.example.com."
	runZoneCases(t, map[string]zoneCase{
		"A":                   {"ext.shop.svc.cluster.local.", dns.TypeA, want("NOERROR", "chase www.example.com.", cname)},
		"other type":          {"ext.shop.svc.cluster.local.", dns.TypeHTTPS, want("NOERROR", "chase www.example.com.", cname)},
		"CNAME":               {"ext.shop.svc.cluster.local.", dns.TypeCNAME, want("NOERROR", cname)},
		"nothing below":       {"10-0-6-1.ext.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"address as a name":   {"literal.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"not a name":          {"invalid.shop.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"itself as a name":    {"self.shop.svc.cluster.local.", dns.TypeA, want("NODATA")},
		"endpoint's PTR":      {"1.6.0.10.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"CNAME of no CNAME":   {"cart.shop.svc.cluster.local.", dns.TypeCNAME, want("NODATA")},
		"SRV name below":      {"_peer._tcp.ext.shop.svc.cluster.local.", dns.TypeSRV, want("NXDOMAIN")},
		"SOA below the apex":  {"cart.shop.svc.cluster.local.", dns.TypeSOA, want("NODATA")},
		"NS below the apex":   {"cart.shop.svc.cluster.local.", dns.TypeNS, want("NODATA")},
		"NS of what is not":   {"x.shop.svc.cluster.local.", dns.TypeNS, want("NXDOMAIN")},
		"outside of the zone": {"www.example.com.", dns.TypeA, want("not ours")},
		"beside the zone":     {"xcluster.local.", dns.TypeA, want("not ours")},
	})
}

func TestZoneNames(t *testing.T) {
	t.Parallel()
	runZoneCases(t, map[string]zoneCase{
		"apex":                       {"cluster.local.", dns.TypeA, want("NODATA")},
		"apex NS":                    {"cluster.local.", dns.TypeNS, want("NOERROR", "+ ns.dns.cluster.local. 30 IN A 10.96.0.10", "cluster.local. 30 IN NS ns.dns.cluster.local.")},
		"name server":                {"ns.dns.cluster.local.", dns.TypeA, want("NOERROR", "ns.dns.cluster.local. 30 IN A 10.96.0.10")},
		"name server, other family":  {"ns.dns.cluster.local.", dns.TypeAAAA, want("NODATA")},
		"svc":                        {"svc.cluster.local.", dns.TypeA, want("NODATA")},
		"pod":                        {"pod.cluster.local.", dns.TypeA, want("NODATA")},
		"namespace":                  {"empty.svc.cluster.local.", dns.TypeA, want("NODATA")},
		"unknown namespace":          {"x.svc.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"pods of a namespace":        {"empty.pod.cluster.local.", dns.TypeA, want("NODATA")},
		"pods of no namespace":       {"x.pod.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"neither svc nor pod":        {"cart.shop.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"version":                    {"dns-version.cluster.local.", dns.TypeTXT, want("NOERROR", `dns-version.cluster.local. 28800 IN TXT "1.1.0"`)},
		"version, other type":        {"dns-version.cluster.local.", dns.TypeA, want("NODATA")},
		"below version":              {"x.dns-version.cluster.local.", dns.TypeTXT, want("NXDOMAIN")},
		"transfer":                   {"cluster.local.", dns.TypeAXFR, want("REFUSED")},
		"incremental transfer":       {"cart.shop.svc.cluster.local.", dns.TypeIXFR, want("REFUSED")},
		"pod address":                {"10-0-0-1.shop.pod.cluster.local.", dns.TypeA, want("NOERROR", "10-0-0-1.shop.pod.cluster.local. 30 IN A 10.0.0.1")},
		"pod, other family":          {"10-0-0-1.shop.pod.cluster.local.", dns.TypeAAAA, want("NODATA")},
		"pod, IPv6":                  {"FD00--1.shop.pod.cluster.local.", dns.TypeAAAA, want("NOERROR", "FD00--1.shop.pod.cluster.local. 30 IN AAAA fd00::1")},
		"pod, IPv6 with three parts": {"1--2-3.shop.pod.cluster.local.", dns.TypeAAAA, want("NOERROR", "1--2-3.shop.pod.cluster.local. 30 IN AAAA 1::2:3")},
		"pod that is no address":     {"10-0-0-256.shop.pod.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"pod with a zone":            {`fe80--1%eth0.shop.pod.cluster.local.`, dns.TypeAAAA, want("NXDOMAIN")},
		"pod in no namespace":        {"10-0-0-1.x.pod.cluster.local.", dns.TypeA, want("NXDOMAIN")},
		"below a pod":                {"x.10-0-0-1.shop.pod.cluster.local.", dns.TypeA, want("NXDOMAIN")},
	})
}

func TestReverseNames(t *testing.T) {
	t.Parallel()
	const fd = ".0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."
	reverse6 := func(addr string) string {
		name, _ := dns.ReverseAddr(addr)
		return name
	}
	runZoneCases(t, map[string]zoneCase{
		"cluster IP":              {"7.0.96.10.in-addr.arpa.", dns.TypePTR, want("NOERROR", "7.0.96.10.in-addr.arpa. 30 IN PTR cart.shop.svc.cluster.local.")},
		"IPv6 cluster IP":         {reverse6("fd00::7"), dns.TypePTR, want("NOERROR", reverse6("fd00::7")+" 30 IN PTR cart.shop.svc.cluster.local.")},
		"endpoint with hostname":  {"1.1.0.10.IN-ADDR.arpa.", dns.TypePTR, want("NOERROR", "1.1.0.10.IN-ADDR.arpa. 30 IN PTR db-0.db.shop.svc.cluster.local.")},
		"endpoint without":        {"4.1.0.10.in-addr.arpa.", dns.TypePTR, want("NOERROR", "4.1.0.10.in-addr.arpa. 30 IN PTR 10-0-1-4.db.shop.svc.cluster.local.")},
		"endpoint in two slices":  {"1.4.0.10.in-addr.arpa.", dns.TypePTR, want("NOERROR", "1.4.0.10.in-addr.arpa. 30 IN PTR 10-0-4-1.moving.shop.svc.cluster.local.")},
		"IPv6 endpoint":           {reverse6("fd00::1:1"), dns.TypePTR, want("NOERROR", reverse6("fd00::1:1")+" 30 IN PTR db-0.db.shop.svc.cluster.local.")},
		"endpoint not ready":      {"5.1.0.10.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"endpoint of no Service":  {"1.7.0.10.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"address of nobody":       {"1.2.0.192.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"other type":              {"7.0.96.10.in-addr.arpa.", dns.TypeA, want("not ours")},
		"part of an address":      {"0.96.10.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"leading zeros":           {"07.0.96.10.in-addr.arpa.", dns.TypePTR, want("not ours")},
		"part of an IPv6 address": {strings.TrimPrefix(fd, "."), dns.TypePTR, want("not ours")},
		"wide nibbles":            {"07.0.0.0" + fd, dns.TypePTR, want("not ours")},
	})
}

func TestApexSOA(t *testing.T) {
	t.Parallel()
	r := testZone.Answer(testSnapshot(), question("Cluster.local.", dns.TypeSOA))
	if len(r.Answer) != 1 || !hasSOA(Result{Ns: r.Answer}) {
		t.Fatalf("answer %v", r.Answer)
	}
	soa := r.Answer[0].(*dns.SOA)
	if soa.Hdr.Name != "Cluster.local." || soa.Refresh != 7200 || soa.Retry != 1800 || soa.Expire != 86400 {
		t.Errorf("answer %v", soa)
	}
	if age := time.Now().Unix() - int64(soa.Serial); age < 0 || age > 3600 {
		t.Errorf("serial %d is not the time of the change", soa.Serial)
	}
}

func TestNothingIsKnownBeforeSync(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		for _, svc := range testObjects().Services {
			e.PutService(svc)
		}
		e.PutNamespace("shop")
	})
	for _, tt := range []zoneCase{
		{"cart.shop.svc.cluster.local.", dns.TypeA, want("SERVFAIL")},
		{"x.shop.svc.cluster.local.", dns.TypeA, want("SERVFAIL")},
		{"x.x.svc.cluster.local.", dns.TypeA, want("SERVFAIL")},
		{"x.cluster.local.", dns.TypeA, want("SERVFAIL")},
		{"ns.dns.cluster.local.", dns.TypeA, want("SERVFAIL")},
		{"cluster.local.", dns.TypeNS, want("SERVFAIL")},
		{"7.0.96.10.in-addr.arpa.", dns.TypePTR, want("SERVFAIL")},
		{"1.2.0.192.in-addr.arpa.", dns.TypePTR, want("SERVFAIL")},
		{"1.2.0.192.in-addr.arpa.", dns.TypeA, want("not ours")},
		{"www.example.com.", dns.TypeA, want("not ours")},
		{"dns-version.cluster.local.", dns.TypeTXT, want("NOERROR", `dns-version.cluster.local. 28800 IN TXT "1.1.0"`)},
	} {
		if got := text(t, testZone.Answer(store.Snapshot(), question(tt.name, tt.qtype))); got != strings.Join(tt.want, "\n") {
			t.Errorf("%s %s: %s, want %s", tt.name, dns.TypeToString[tt.qtype], got, tt.want)
		}
	}
}

func TestOtherClassesAreNotOurs(t *testing.T) {
	t.Parallel()
	q := dns.Question{Name: "cluster.local.", Qtype: dns.TypeSOA, Qclass: dns.ClassCHAOS}
	if r := testZone.Answer(testSnapshot(), q); r.Ours {
		t.Errorf("answered %v", r)
	}
}

// FuzzAnswer holds what must be true of every answer, and that it can be sent.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{
		"cart.shop.svc.cluster.local.", "_peer._tcp.db.shop.svc.cluster.local.", "fd00-2--0.six.shop.svc.CLUSTER.local",
		"7.0.96.10.in-addr.arpa.", ".", "", `a\.b.shop.svc.cluster.local.`, "10-0-0-1.shop.pod.cluster.local.", "\u212aart.cluster.local.",
	} {
		f.Add(name, dns.TypeA)
		f.Add(name, dns.TypeSRV)
		f.Add(name, dns.TypePTR)
	}
	snapshot := testSnapshot()
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		q := question(name, qtype)
		r := testZone.Answer(snapshot, q)
		if !r.Ours {
			if r.Rcode != 0 || r.Authoritative || len(r.Answer)+len(r.Ns)+len(r.Extra) > 0 {
				t.Fatalf("not ours, yet %+v", r)
			}
			return
		}
		for _, rr := range r.Answer {
			if !strings.EqualFold(rr.Header().Name, dns.Fqdn(name)) {
				t.Errorf("%q is answered with %v", name, rr)
			}
			if rr.Header().Rrtype != qtype && rr.Header().Rrtype != dns.TypeCNAME {
				t.Errorf("type %d is answered with %v", qtype, rr)
			}
		}
		if r.Rcode == dns.RcodeNameError && len(r.Answer) > 0 || len(r.Answer) == 0 && r.Rcode != dns.RcodeRefused && !hasSOA(r) {
			t.Errorf("status %s with %v, %v", dns.RcodeToString[r.Rcode], r.Answer, r.Ns)
		}
		if _, valid := dns.IsDomainName(name); !valid {
			return
		}
		m := dns.Msg{Question: []dns.Question{q}, Answer: r.Answer, Ns: r.Ns, Extra: r.Extra}
		m.Question[0].Name = dns.Fqdn(name)
		if _, err := m.Pack(); err != nil {
			t.Errorf("answer cannot be packed: %v", err)
		}
	})
}
