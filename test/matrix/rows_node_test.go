//go:build node

package matrix

import (
	"fmt"
	"net/netip"
	"slices"
)

type family string

const (
	ipv4 family = "IPv4"
	ipv6 family = "IPv6"
)

var families = []family{ipv4, ipv6}

var protocols = []string{"tcp", "udp"}

// A row is one kind of traffic.
type row struct {
	name string
	// only names the datapaths that it has a meaning for; nil: all.
	only []string
	// noIPv6 says why it has no meaning for IPv6; empty: it has.
	noIPv6 string
	try    func(cell) error
}

// A cell is a row's traffic for one datapath, family and protocol.
type cell struct {
	*field
	pods     *pods
	family   family
	protocol string
}

// request makes one and holds the answer against who should answer and the source that he should see.
func (c cell) request(from *peer, to netip.AddrPort, by *peer, saw netip.Addr) error {
	r, err := from.ask(c.protocol, to)
	if err != nil {
		return fmt.Errorf("%s to %s (%s): %w", from.name, to, by.name, err)
	}
	if r.By != by.name {
		return fmt.Errorf("%s to %s: %s answered, want %s", from.name, to, r.By, by.name)
	}
	if r.Saw.Addr() != saw {
		return fmt.Errorf("%s to %s: %s saw the source %s, want %s", from.name, to, by.name, r.Saw.Addr(), saw)
	}
	return nil
}

// direct is a request to a peer's own address, by its own address.
func (c cell) direct(from, to *peer) error {
	return c.request(from, netip.AddrPortFrom(to.addr(c.family), probePort), to, from.addr(c.family))
}

// through is a request to a port of a node. The source is seen as it is with a nil source.
func (c cell) through(from *peer, n *node, port uint16, by, source *peer) error {
	if source == nil {
		source = from
	}
	return c.request(from, netip.AddrPortFrom(n.host.addr(c.family), port), by, source.addr(c.family))
}

// service is a request to a Service's address, which shows the client's own address.
func (c cell) service(from *peer, v *service, by *peer) error {
	return c.request(from, v.frontend(c.family), by, from.addr(c.family))
}

// resolve asks a DNS server for the name of a Service. Only the node's own one is there to answer.
func (c cell) resolve(from *peer, server netip.AddrPort) error {
	v := c.pods.near
	r, err := from.tell(order{Do: "resolve", Network: c.protocol, To: server.String(), Name: v.name + ".default.svc.cluster.local", Timeout: requestTimeout})
	if err != nil {
		return err
	}
	if !slices.Contains(r.Addrs, v.addr(ipv4).String()) {
		return fmt.Errorf("%s resolves to %v, want %s", v.name, r.Addrs, v.addr(ipv4))
	}
	return nil
}

const (
	noDockerv6 = "Docker publishes IPv4; its IPv6 is routed"
)

func rows(datapaths []string) []row {
	return slices.Concat(podRows(datapaths), nodeRows(), serviceRows(), packetRows(), nodePortRows(), secondENIRows(), otherENIRows(), addressRows(),
		hostPortRows(), outRows())
}

func podRows(datapaths []string) []row {
	shared := []string{veth, ipvlan}
	all := []row{
		{name: "pod - pod, same ENI", only: shared, try: func(c cell) error { return c.direct(c.pods.a.peer, c.pods.same.peer) }},
		{name: "pod - pod, other ENI of the node", try: func(c cell) error { return c.direct(c.pods.a.peer, c.pods.other.peer) }},
		{name: "pod - pod, other node", try: func(c cell) error { return c.direct(c.pods.a.peer, c.pods.remote.peer) }},
	}
	for _, to := range datapaths {
		all = append(all, row{
			name: "pod - " + to + " pod of the node",
			only: slices.DeleteFunc(slices.Clone(datapaths), func(d string) bool { return d == to }),
			try: func(c cell) error {
				if err := c.of[to].broken; err != nil {
					return err
				}
				return c.direct(c.pods.a.peer, c.of[to].a.peer)
			},
		})
	}
	return all
}

func nodeRows() []row {
	return []row{
		{name: "pod - own node", try: func(c cell) error { return c.direct(c.pods.a.peer, c.n1.host) }},
		{name: "own node - pod", try: func(c cell) error { return c.direct(c.n1.host, c.pods.a.peer) }},
		{name: "pod - other node", try: func(c cell) error { return c.direct(c.pods.a.peer, c.n2.host) }},
		{name: "other node - pod", try: func(c cell) error { return c.direct(c.n2.host, c.pods.a.peer) }},
		{name: "machine outside - pod", try: func(c cell) error { return c.direct(c.outside, c.pods.a.peer) }},
		{name: "pod - node DNS", try: func(c cell) error { return c.resolve(c.pods.a.peer, nodeDNS[c.family]) }},
		{name: "pod - node DNS by the kube-dns Service", try: func(c cell) error { return c.resolve(c.pods.a.peer, kubeDNS[c.family]) }},
		{name: "pod - published port of own node", noIPv6: noDockerv6, try: func(c cell) error {
			return c.through(c.pods.a.peer, c.n1, publishedPort, c.docker, nil)
		}},
	}
}

func serviceRows() []row {
	return []row{
		{name: "pod - Service, pod of the node", try: func(c cell) error { return c.service(c.pods.other.peer, c.pods.near, c.pods.a.peer) }},
		{name: "pod - Service, pod of other node", try: func(c cell) error { return c.service(c.pods.a.peer, c.pods.far, c.pods.remote.peer) }},
		{name: "pod - Service, itself", try: func(c cell) error { return c.service(c.pods.a.peer, c.pods.near, c.pods.a.peer) }},
		{name: "pod - Service, own node", try: func(c cell) error { return c.service(c.pods.a.peer, c.onHost, c.n1.host) }},
		{name: "own node - Service, pod", try: func(c cell) error { return c.service(c.n1.host, c.pods.near, c.pods.a.peer) }},
	}
}

func nodePortRows() []row {
	return []row{
		{name: "outside - NodePort Cluster, pod of the node", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.pods.near.port(), c.pods.a.peer, c.n1.host)
		}},
		{name: "outside - NodePort Cluster, pod of other node", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.pods.far.port(), c.pods.remote.peer, c.n1.host)
		}},
		{name: "outside - NodePort Cluster, own node", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.onHost.port(), c.n1.host, nil) // it answers itself: there is no need for SNAT
		}},
		{name: "outside - NodePort Local", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.pods.local.port(), c.pods.a.peer, nil)
		}},
		{name: "pod - NodePort of own node", try: func(c cell) error {
			return c.through(c.pods.other.peer, c.n1, c.pods.near.port(), c.pods.a.peer, nil)
		}},
		{name: "own node - NodePort", try: func(c cell) error {
			return c.through(c.n1.host, c.n1, c.pods.near.port(), c.pods.a.peer, nil)
		}},
	}
}

func hostPortRows() []row {
	return []row{
		{name: "outside - hostPort", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.pods.hostPort, c.pods.a.peer, nil)
		}},
		{name: "outside - hostPort with hostIP", try: func(c cell) error {
			return c.through(c.outside, c.n1, c.pods.hostIPPort, c.pods.a.peer, nil)
		}},
		{name: "own node - hostPort", try: func(c cell) error {
			return c.through(c.n1.host, c.n1, c.pods.hostPort, c.pods.a.peer, nil)
		}},
		{name: "pod of the node - hostPort", try: func(c cell) error {
			return c.through(c.pods.other.peer, c.n1, c.pods.hostPort, c.pods.a.peer, nil)
		}},
		{name: "pod of other node - hostPort", try: func(c cell) error {
			return c.through(c.pods.remote.peer, c.n1, c.pods.hostPort, c.pods.a.peer, nil)
		}},
	}
}

func outRows() []row {
	return []row{
		{name: "pod - internet, by the VPC", try: func(c cell) error { return c.out(c.pods.a.peer, c.pods.a.addr(c.family)) }},
		{name: "pod - internet, by the node (SNAT)", try: func(c cell) error { return c.out(c.pods.remote.peer, c.n2.host.addr(c.family)) }},
	}
}

// out makes a request to the internet, which is to see the source that goes through the VPC's gateway.
func (c cell) out(from *peer, source netip.Addr) error {
	return c.request(from, netip.AddrPortFrom(c.internet.addr(c.family), probePort), c.internet, source)
}
