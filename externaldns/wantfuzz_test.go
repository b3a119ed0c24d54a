package externaldns

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/internal/cluster"
)

func FuzzWantAnnotations(f *testing.F) {
	f.Add("web.corp,b.corp", "in.corp", "", "60", "public")
	f.Add("*.corp, ,A..b,-x,"+string(make([]byte, 300)), "*.*.corp", "10.0.0.1,fd00::1%eth0,x.corp,*.x,::ffff:1.2.3.4", "1.5h", "x")
	f.Add("ü.corp", ".", "0.0.0.0,224.0.0.1", "-9223372036854775808", "")
	f.Fuzz(func(t *testing.T, hostname, internal, target, ttl, access string) {
		pairs := []string{"hostname", hostname, "internal-hostname", internal, "target", target, "ttl", ttl, "access", access}
		for _, kind := range []corev1.ServiceType{"ClusterIP", "NodePort", "ExternalName"} {
			svc := testService(kind, pairs...)
			svc.ExternalName, svc.Ports[0].Name = target, access
			other := headlessService("hostname", "steady.corp")
			other.Name.Name = "steady"
			steady := testSlice(readyEndpoint("10.0.0.1", "", ""))
			steady.Service = other.Name
			pod := readyPod("web-0", pairs...)
			w := newTestWants(t, Rules{PTR: true})
			w.Apply(fullChange(cluster.Objects{
				Services: []*cluster.Service{svc, other}, Slices: []*cluster.EndpointSlice{steady}, Pods: []*cluster.Pod{pod},
				Nodes: []*cluster.Node{testNode("node-a", ips("192.168.0.1"), ips("47.0.0.1"))},
			}))
			checkWants(t, w)
			if !slices.ContainsFunc(w.For("steady.corp"), func(w Want) bool { return w.Value == "10.0.0.1" || w.Type == typeCNAME }) {
				t.Error("an object that has no fault is not published")
			}
		}
	})
}

func FuzzTemplateNames(f *testing.F) {
	f.Add("web", "a.corp,b.corp")
	f.Add("", "*.corp")
	f.Add("{{.Name}}", "a\x00b,\n, ")
	f.Fuzz(func(t *testing.T, label, annotation string) {
		svc := testService(corev1.ServiceTypeClusterIP)
		svc.Exposure.Labels = map[string]string{"a": label}
		svc.Exposure.Annotations = map[string]string{"nearpath.io/names": annotation}
		w := newTestWants(t, Rules{PublishInternal: true, PTR: true, Templates: []string{
			"{{.Labels.a}}.corp", `{{index .Annotations "nearpath.io/names"}}`, `{{replace "." "-" .Labels.a | toLower}}.{{.Labels.missing}}`,
		}})
		w.Apply(fullChange(services(svc)))
		checkWants(t, w)
	})
}

func FuzzDNSEndpointWants(f *testing.F) {
	f.Add("a.corp", "A", "10.0.0.1", int64(300))
	f.Add("_x._tcp.corp", "SRV", "0 5 80 a.corp.", int64(0))
	f.Add("1.0.0.10.in-addr.arpa", "PTR", "a.corp", int64(-1))
	f.Add("a.corp", "TXT", `"heritage=external-dns,external-dns/owner=me"`, int64(1)<<62)
	f.Fuzz(func(t *testing.T, name, recordType, target string, ttl int64) {
		w := newTestWants(t, Rules{PTR: true})
		w.Apply(fullChange(cluster.Objects{DNSEndpoints: []*cluster.DNSEndpoint{{
			Meta: shopMeta("extra"), Records: []cluster.RecordSet{{Name: name, Type: recordType, TTL: ttl, Targets: []string{target, target + " "}}},
		}}}))
		checkWants(t, w)
	})
}

func FuzzRouteHosts(f *testing.F) {
	f.Add("*.corp", "a.corp")
	f.Add("a.corp", "*.corp")
	f.Add("", "*")
	f.Add("*.", ".corp")
	f.Fuzz(func(t *testing.T, listener, host string) {
		gateway := cluster.Name{Namespace: "shop", Name: "gw"}
		w := newTestWants(t, Rules{})
		w.Apply(fullChange(cluster.Objects{
			HTTPRoutes: []*cluster.HTTPRoute{{Meta: shopMeta("web"), Hostnames: []string{host}, Parents: []cluster.ParentRef{{Gateway: gateway}}}},
			Gateways: []*cluster.Gateway{{
				Meta: cluster.Meta{Name: gateway}, Addresses: []string{"10.1.1.1", host}, Listeners: []cluster.Listener{{Hostname: listener, From: "All"}},
			}},
		}))
		checkWants(t, w)
	})
}

func FuzzReverseName(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1})
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		if name := reverseName(addr); !isReverse(name) || checkWantName(name) != nil {
			t.Errorf("%s is at %q", addr, name)
		}
	})
}
