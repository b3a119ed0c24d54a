package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
)

func addrPorts(texts ...string) (out []netip.AddrPort) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

func at(text string, protocol uint8) bpf.Frontend {
	return bpf.Frontend{Addr: netip.MustParseAddrPort(text), Protocol: protocol}
}

// someTables have a Service of every kind of frontend, one without endpoints, one whose endpoints are elsewhere, and a host
// port.
func someTables() *bpf.Tables {
	ip := netip.MustParseAddr
	return &bpf.Tables{
		Frontends: map[bpf.Frontend]bpf.Target{
			at("10.96.0.1:80", 6):    {Kind: bpf.ClusterIP, Record: 1},
			at("0.0.0.0:30080", 6):   {Kind: bpf.NodePort, Record: 1},
			at("203.0.113.1:80", 6):  {Kind: bpf.LoadBalancer, Record: 1},
			at("10.96.0.1:0", 0):     {Kind: bpf.ServiceAddress},
			at("10.96.0.2:53", 17):   {Kind: bpf.ClusterIP, Record: 2},
			at("203.0.113.2:53", 17): {Kind: bpf.ExternalIP, Record: 2},
			at("10.96.0.3:80", 6):    {Kind: bpf.ClusterIP, Record: 3},
			at("10.96.0.4:80", 6):    {Kind: bpf.ClusterIP, Record: 4},
			at("0.0.0.0:8053", 17):   {Kind: bpf.HostPort, Record: 5},
			at("[fd96::1]:80", 6):    {Kind: bpf.ClusterIP, Record: 6},
		},
		Blocks: map[uint32]bpf.Block{
			1: {
				Cluster: addrPorts("10.0.2.1:8080", "10.0.1.1:8080"), Local: addrPorts("10.0.1.1:8080"), Draining: addrPorts("10.0.2.9:8080"),
				ExternalLocal: true, Affinity: 3 * time.Hour, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")},
			},
			2: {Cluster: addrPorts("10.0.1.1:53"), NodeDNS: true},
			3: {},
			4: {Cluster: addrPorts("10.0.2.1:8080"), InternalLocal: true, InternalDrop: true},
			5: {Cluster: addrPorts("10.0.1.2:53"), Local: addrPorts("10.0.1.2:53"), ExternalLocal: true},
			6: {Cluster: addrPorts("[fd00:1::1]:8080")},
		},
		NodeAddresses: []bpf.NodeAddress{{Addr: ip("192.0.2.1"), NodePorts: true}, {Addr: ip("192.0.2.9")}, {Addr: ip("127.0.0.1"), NodePorts: true}},
		Networks: []bpf.HostNetwork{
			{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Way: bpf.WayService}, {Prefix: netip.MustParsePrefix("10.96.9.0/24"), Way: bpf.WayNode},
		},
		Affinity: []bpf.AffinityEntry{
			{Client: ip("10.0.1.2"), Record: 1, Backend: netip.MustParseAddrPort("10.0.2.1:8080"), LastUsed: time.Hour},
			{Client: ip("10.0.1.3"), Record: 1, Backend: netip.MustParseAddrPort("10.0.2.1:8080")}, // long ago
			{Client: ip("10.0.1.4"), Record: 1, Backend: netip.MustParseAddrPort("10.0.2.9:8080"), LastUsed: time.Hour},
		},
		Pods: []bpf.Pod{
			{Addrs: []netip.Addr{ip("10.0.1.1")}}, {Addrs: []netip.Addr{ip("10.0.1.2")}, ByPackets: true}, {Addrs: []netip.Addr{ip("10.0.1.3")}},
			{Addrs: []netip.Addr{ip("10.0.1.4")}}, {Addrs: []netip.Addr{ip("10.0.3.1")}}, {Addrs: []netip.Addr{ip("fd00:1::1")}},
		},
		Host: []netip.Addr{ip("192.0.2.1")},
		Now:  3*time.Hour + time.Minute,
	}
}

var someNames = recordNames{1: "shop/web:80/TCP IPv4", 2: "kube-system/dns:53/UDP IPv4"}

func TestGetFromMaps(t *testing.T) {
	t.Parallel()
	for _, n := range mapNouns {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			for _, names := range []recordNames{someNames, nil} {
				body, err := json.Marshal(n.view(someTables(), names))
				if err != nil {
					t.Fatal(err)
				}
				if err := n.print(&out, body); err != nil {
					t.Fatal(err)
				}
				if names == nil {
					out.Write(append(body, '\n'))
				}
				out.WriteString("\n")
			}
			compareGolden(t, "get-"+n.name, out.String())
		})
	}
}

// compareGolden compares with testdata/NAME.txt. NEARPATH_GOLDEN=write writes it instead.
func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if os.Getenv("NEARPATH_GOLDEN") == "write" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestGetWithoutMaps(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"get", "services"}, {"get", "frontends"}, {"get", "backends"}, {"explain", "service", "10.96.0.1:80"}} {
		_, err := execute(t, append(args, "--pins", t.TempDir(), "--socket", filepath.Join(t.TempDir(), "none.sock"))...)
		if err == nil || !strings.Contains(err.Error(), "no agent has served Services here") {
			t.Errorf("%v: %v, want that there is nothing", args, err)
		}
	}
}

// someObjects are of the Services of someTables' records 1 and 4, but for an endpoint of the first that the kernel has not
// heard of, and for the second, which is served everywhere.
func someObjects() *cluster.Snapshot {
	ip := netip.MustParseAddr
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		e.PutService(&cluster.Service{
			Name: cluster.Name{Namespace: "shop", Name: "web"}, ClusterIPs: []netip.Addr{ip("10.96.0.1")}, LoadBalancerIPs: []netip.Addr{ip("203.0.113.1")},
			ExternalLocal: true, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")},
			Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80, NodePort: 30080}, {Name: "tls", Protocol: cluster.TCP, Port: 443, NoShortcut: true}},
		})
		endpoint := func(addr, node string) cluster.Endpoint {
			return cluster.Endpoint{Addr: ip(addr), NodeName: node, Ready: true, Serving: true}
		}
		e.PutSlice(&cluster.EndpointSlice{
			Name: cluster.Name{Namespace: "shop", Name: "web-1"}, Service: cluster.Name{Namespace: "shop", Name: "web"},
			Ports:     []cluster.EndpointPort{{Protocol: cluster.TCP, Port: 8080}},
			Endpoints: []cluster.Endpoint{endpoint("10.0.1.1", "here"), endpoint("10.0.2.1", "there"), endpoint("10.0.2.2", "there")},
		})
		e.PutService(&cluster.Service{
			Name: cluster.Name{Namespace: "shop", Name: "db"}, ClusterIPs: []netip.Addr{ip("10.96.0.4")},
			Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80}},
		})
		e.PutSlice(&cluster.EndpointSlice{
			Name: cluster.Name{Namespace: "shop", Name: "db-1"}, Service: cluster.Name{Namespace: "shop", Name: "db"},
			Ports:     []cluster.EndpointPort{{Protocol: cluster.TCP, Port: 8080}},
			Endpoints: []cluster.Endpoint{endpoint("10.0.2.1", "there")},
		})
	})
	return store.Snapshot()
}

// serveExplanations answers as an agent would that has someObjects.
func serveExplanations(t *testing.T) (socket string) {
	t.Helper()
	return serveAPI(t, func(api *agentapi.Server) {
		api.Handle(nouns["pods"].path, func(context.Context) (any, error) {
			return []podView{
				{Namespace: "shop", Name: "client", Addresses: []string{"10.0.1.2"}}, {Namespace: "shop", Name: "gone", Addresses: []string{"10.0.9.9"}},
			}, nil
		})
		api.Handle(recordsPath, func(context.Context) (any, error) { return someNames, nil })
		agentapi.Serve(api, connectionPath, func(_ context.Context, r connectionRequest) (any, error) {
			return explainObjects(someObjects(), someTables(), config{NodeName: "here"}, r)
		})
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	socket := serveExplanations(t)
	alone := filepath.Join(t.TempDir(), "none.sock")
	var out strings.Builder
	for _, c := range []struct{ to, from, socket string }{
		{"10.96.0.1:80", "node", alone},
		{"10.96.0.1:80", "10.0.1.1", alone},     // itself is one of the backends
		{"10.96.0.1:80", "shop/client", socket}, // remembered
		{"10.96.0.1:80", "10.0.1.3", socket},    // an endpoint is missing
		{"10.96.0.4:80", "10.0.1.3", socket},
		{"192.0.2.1:30080", "198.51.100.1", socket},
		{"203.0.113.1:443", "10.0.1.3", socket},
		{"203.0.113.1:80", "10.0.3.1", socket},
		{"10.96.0.99:80", "node", socket},
		{"10.96.0.1:80", "10.0.1.1", socket},
		{"10.96.0.1:80/tcp", "10.0.1.3", alone},
		{"10.96.0.1:80/tcp", "10.0.1.4", alone},
		{"10.96.0.1:81", "node", alone},
		{"10.96.0.1:80/UDP", "outside", alone},
		{"10.96.0.2:53/udp", "198.51.100.1", alone},
		{"10.96.0.3:80", "10.0.1.1", alone},
		{"10.96.0.3:80", "outside", alone},
		{"10.96.0.4:80", "10.0.1.1", alone},
		{"10.96.0.99:80", "10.0.1.1", alone},
		{"10.96.9.9:80", "10.0.1.1", alone},
		{"192.0.2.1:30080", "outside", alone},
		{"192.0.2.1:30080", "10.0.1.1", alone},
		{"192.0.2.9:30080", "outside", alone},
		{"127.0.0.5:30080", "node", alone},
		{"127.0.0.1:30080", "10.0.1.1", alone},
		{"192.0.2.9:8053/UDP", "198.51.100.1", alone},
		{"203.0.113.1:80", "10.0.1.1", alone},
		{"203.0.113.1:80", "10.0.3.1", alone},
		{"203.0.113.1:80", "outside", alone},
		{"203.0.113.2:53/UDP", "198.51.100.1", alone},
		{"203.0.113.9:80", "192.0.2.9", alone},
		{"[fd96::1]:80", "fd00:1::1", alone},
		{"10.96.0.1:80", "shop/gone", socket},
		{"10.96.0.1:80", "nobody", socket},
		{"10.96.0.1:80", "shop/client", alone},
		{"10.96.0.1", "node", alone},
		{"10.96.0.1:80/ICMP", "node", alone},
		{"[fd96::1]:80", "10.0.1.1", alone},
	} {
		e := explainer{tables: someTables(), agent: agentapi.NewClient(c.socket)}
		out.WriteString("$ explain service " + c.to + " --from " + c.from + "\n")
		view, err := e.explain(t.Context(), c.to, c.from)
		if err != nil {
			out.WriteString("error: " + strings.ReplaceAll(err.Error(), alone, "SOCKET") + "\n\n")
			continue
		}
		body, err := json.Marshal(view)
		if err != nil {
			t.Fatal(err)
		}
		if err := printExplained(&out, body); err != nil {
			out.WriteString("error: " + err.Error() + "\n")
		}
		out.WriteString("\n")
	}
	compareGolden(t, "explain", out.String())
}
