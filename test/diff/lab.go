package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	"github.com/nearpath/nearpath/test/netlab"
	corev1 "k8s.io/api/core/v1"
)

// Places of a lab, each a network namespace of its own. A lab has one node with two pods, a router, another part of the
// cluster behind it, and a client outside of the cluster:
//
//	pod   10.1.0.5 --- vpod   \
//	plain 10.1.0.6 --- vplain - node 192.0.2.1, .9 --- router --- remote 10.1.1.1 (a node), .11 to .14 (its pods)
//	                                                     \------ client 198.51.100.7
//
// and the same with IPv6. The router leads cluster IPs and VIPs to the node when they come from outside, and loses them
// when they come from the node: what a proxy does not answer gets no answer.
const (
	placeNode   = "node"
	placePod    = "pod"
	placePlain  = "plain" // like pod; under nearpath its packets are translated, not its sockets
	placeRouter = "router"
	placeRemote = "remote"
	placeClient = "client"
)

// inside are the places that are on the node.
var inside = []string{placeNode, placePod, placePlain}

// outside are the other places that ask or answer.
var outside = []string{placeRemote, placeClient}

var (
	nodeAddrs   = addrs("192.0.2.1", "fd02::1", "192.0.2.9", "fd02::9")
	podAddrs    = addrs("10.1.0.5", "fd01::5")
	plainAddrs  = addrs("10.1.0.6", "fd01::6")
	remoteNode  = addrs("10.1.1.1", "fd01:1::1")
	remoteAddrs = addrs("10.1.1.11", "fd01:1::11", "10.1.1.12", "fd01:1::12", "10.1.1.13", "fd01:1::13", "10.1.1.14", "fd01:1::14")
	clientAddrs = addrs("198.51.100.7", "fd05::7")
	vipAddrs    = addrs("203.0.113.1", "203.0.113.2", "203.0.113.3", "fd03::1", "fd03::2", "fd03::3")
	serviceNets = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/24"), netip.MustParsePrefix("fd96::/120")}
)

const (
	nodeName   = "here"
	remoteName = "there"
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// placesOf are the addresses of each place that asks or answers; it asks from the first of each family.
var placesOf = map[string][]netip.Addr{
	placeNode: nodeAddrs, placePod: podAddrs, placePlain: plainAddrs,
	placeRemote: append(append([]netip.Addr(nil), remoteAddrs...), remoteNode...), placeClient: clientAddrs,
}

// worldLab is what worlds may be made of here.
func worldLab(services int, nodePorts []string) worlds.Lab {
	lab := worlds.Lab{
		Node: model.Node{
			Name: nodeName, Addresses: nodeAddrs, Pods: append(append([]netip.Addr(nil), podAddrs...), plainAddrs...),
			RemotePods: remoteAddrs, OtherNodes: remoteNode,
		},
		Zones: []string{"", "a", "b"}, TargetPorts: []int32{8080, 8081}, ServiceCIDRs: serviceNets, VIPs: vipAddrs,
		Ports: []int32{80, 53}, NodePorts: []int32{30080, 30053, 30081}, UnusedPort: 9,
		Protocols: []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP},
		Services:  services, Endpoints: 5, NodePortAddresses: [][]string{nodePorts}, Certain: true,
	}
	for i := range 2 {
		lab.Clients = append(lab.Clients,
			model.Client{Kind: model.LocalPod, Addr: podAddrs[i]}, model.Client{Kind: model.LocalPod, Addr: plainAddrs[i]},
			model.Client{Kind: model.NodeItself, Addr: nodeAddrs[i]},
			model.Client{Addr: remoteAddrs[i]}, model.Client{Addr: clientAddrs[i]})
		lab.Backends = append(lab.Backends, worlds.Backend{Addr: podAddrs[i], Node: nodeName},
			worlds.Backend{Addr: plainAddrs[i], Node: nodeName}, worlds.Backend{Addr: nodeAddrs[i], Node: nodeName})
	}
	for _, a := range remoteAddrs {
		lab.Backends = append(lab.Backends, worlds.Backend{Addr: a, Node: remoteName})
	}
	return lab
}

// placeOf is where a client is.
func placeOf(c model.Client) string {
	for place, have := range placesOf {
		if slices.Contains(have, c.Addr) {
			return place
		}
	}
	return ""
}

// A network is one copy of the lab.
type network struct {
	places map[string]*netlab.NetNS
}

// newNetwork makes the namespaces and connects them. Its names begin with name.
func newNetwork(lab *netlab.Lab, name string) (*network, error) {
	n := &network{places: map[string]*netlab.NetNS{}}
	for _, place := range append(append([]string{placeRouter}, inside...), outside...) {
		ns, err := lab.NetNS(name + "-" + place)
		if err != nil {
			return nil, err
		}
		n.places[place] = ns
	}
	for place, ns := range n.places {
		if err := ns.Do(func() error { return setSysctls(place) }); err != nil {
			return nil, fmt.Errorf("set up %s of %s: %w", place, name, err)
		}
	}
	for place, script := range n.scripts() {
		if err := ipBatch(n.places[place].Name(), script); err != nil {
			return nil, fmt.Errorf("set up %s of %s: %w", place, name, err)
		}
	}
	// The second half needs both ends of every link.
	for place, script := range routes {
		if err := ipBatch(n.places[place].Name(), script); err != nil {
			return nil, fmt.Errorf("set up the routes of %s of %s: %w", place, name, err)
		}
	}
	return n, nil
}

// scripts make links and addresses, by the place that makes them.
func (n *network) scripts() map[string]string {
	link := func(own, place, mac, peerMAC string) string {
		return fmt.Sprintf("link add %s address %s type veth peer name eth0 address %s netns %s\nlink set %s up\n",
			own, mac, peerMAC, n.places[place].Name(), own)
	}
	return map[string]string{
		placeNode: link("vpod", placePod, "02:00:00:00:01:01", "02:00:00:00:01:05") +
			link("vplain", placePlain, "02:00:00:00:02:01", "02:00:00:00:02:06"),
		placeRouter: link("tonode", placeNode, "02:00:00:00:03:fe", "02:00:00:00:03:01") +
			link("toremote", placeRemote, "02:00:00:00:04:fe", "02:00:00:00:04:01") +
			link("toclient", placeClient, "02:00:00:00:05:fe", "02:00:00:00:05:07"),
	}
}

// routes are the addresses and routes of each place. Neighbours are known, so that nothing waits for one.
var routes = map[string]string{
	placePod:    hostRoutes(podAddrs, "02:00:00:00:01:01"),
	placePlain:  hostRoutes(plainAddrs, "02:00:00:00:02:01"),
	placeClient: hostRoutes(clientAddrs, "02:00:00:00:05:fe"),
	placeRemote: hostRoutes(placesOf[placeRemote], "02:00:00:00:04:fe"),
	placeNode: hostRoutes(nodeAddrs, "02:00:00:00:03:fe") +
		"link set vpod up\nlink set vplain up\n" + by(podAddrs, "vpod", "02:00:00:00:01:05") + by(plainAddrs, "vplain", "02:00:00:00:02:06"),
	placeRouter: "addr add 192.0.2.254/32 dev tonode\naddr add fd02::fe/128 dev tonode nodad\n" +
		by(nodeAddrs, "tonode", "02:00:00:00:03:01") + by(placesOf[placeRemote], "toremote", "02:00:00:00:04:01") +
		by(clientAddrs, "toclient", "02:00:00:00:05:07") +
		through("tonode", "", "192.0.2.1", "fd02::1", "10.1.0.0/24", "fd01::/64") +
		"route add blackhole 10.96.0.0/16\nroute add blackhole 203.0.113.0/24\nroute add blackhole fd96::/64\nroute add blackhole fd03::/64\n" +
		through("tonode", "table 100", "192.0.2.1", "fd02::1", "10.96.0.0/16", "203.0.113.0/24", "fd96::/64", "fd03::/64") +
		"rule add iif toremote lookup 100\nrule add iif toclient lookup 100\n",
}

// hostRoutes lead everything by eth0, to a neighbour that need not have an address.
func hostRoutes(own []netip.Addr, mac string) string {
	var b strings.Builder
	for i, a := range own {
		fmt.Fprintf(&b, "addr add %s/%d dev eth0 nodad", a, a.BitLen())
		if i > 1 && a.Is6() {
			b.WriteString(" preferred_lft 0") // else the last one is the source of what is sent
		}
		b.WriteString("\n")
	}
	b.WriteString("link set eth0 up\n")
	for _, next := range []string{"169.254.1.1", "fe80::1:1"} {
		fmt.Fprintf(&b, "neigh replace %s lladdr %s dev eth0 nud permanent\n", next, mac)
		fmt.Fprintf(&b, "route add default via %s dev eth0 onlink\n", next)
	}
	return b.String()
}

// by leads addresses by a link that they are directly on.
func by(to []netip.Addr, link, mac string) string {
	var b strings.Builder
	for _, a := range to {
		fmt.Fprintf(&b, "neigh replace %s lladdr %s dev %s nud permanent\nroute add %s/%d dev %s\n", a, mac, link, a, a.BitLen(), link)
	}
	return b.String()
}

// through leads networks to the next hop of their family.
func through(link, more, next4, next6 string, to ...string) string {
	var b strings.Builder
	for _, prefix := range to {
		next := next4
		if strings.Contains(prefix, ":") {
			next = next6
		}
		fmt.Fprintf(&b, "route add %s via %s dev %s onlink %s\n", prefix, next, link, more)
	}
	return b.String()
}

// ipBatch runs iproute2 in a namespace.
func ipBatch(ns, script string) error {
	cmd := exec.Command("ip", "-n", ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -n %s: %w: %s", ns, err, bytes.TrimSpace(out))
	}
	// A rule says nothing of its family.
	for line := range strings.Lines(script) {
		if !strings.HasPrefix(line, "rule ") {
			continue
		}
		cmd := exec.Command("ip", append([]string{"-n", ns, "-6"}, strings.Fields(line)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip -n %s -6 %s: %w: %s", ns, line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// setSysctls makes routers of what routes, and takes refusals out of what ICMP limits: every one of them is a result. No
// client may have a node port for its own port: it would connect to itself.
func setSysctls(place string) error {
	settings := map[string]string{
		"ipv4/icmp_ratemask": "0", "ipv6/icmp/ratemask": "2",
		"ipv4/ip_local_port_range": "33000 60999", "ipv6/conf/default/accept_dad": "0",
	}
	if place == placeNode || place == placeRouter {
		settings["ipv4/ip_forward"], settings["ipv6/conf/all/forwarding"] = "1", "1"
	}
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}
