//go:build node

package matrix

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// client is a pod of the datapath whose Services are translated in its packets. None has ipvlan: then it is one of veth.
func (c cell) client() *peer {
	if c.pods.packets == nil {
		return c.of[veth].packets.peer
	}
	return c.pods.packets.peer
}

// ask is a request to a Service's port at one of its addresses, with the source that the backend is to see.
func (c cell) ask(from *peer, addr netip.Addr, by *peer, saw netip.Addr) error {
	return c.request(from, netip.AddrPortFrom(addr, servicePort), by, saw)
}

// own is the address that a client has.
func (c cell) own(p *peer) netip.Addr { return p.addr(c.family) }

// silent is a request that must not be answered, not even by a refusal.
func (c cell) silent(from *peer, to netip.AddrPort) error {
	err := from.askInVain(c.protocol, to, vainTimeout)
	if err == nil || !strings.Contains(err.Error(), "timeout") && !strings.Contains(err.Error(), "deadline") {
		return fmt.Errorf("%s to %s: %w, want that time runs out", from.name, to, err)
	}
	return nil
}

// refused is a request that must be refused at once.
func (c cell) refused(from *peer, to netip.AddrPort) error {
	if err := from.askInVain(c.protocol, to, requestTimeout); err == nil || !strings.Contains(err.Error(), "connection refused") {
		return fmt.Errorf("%s to %s: %w, want that it is refused", from.name, to, err)
	}
	return nil
}

// packetRows are clients whose sockets are left alone (K11, K12): the same rows hold in their packets.
func packetRows() []row {
	return []row{
		{name: "pod by packets - Service, pod of the node", try: func(c cell) error {
			return c.service(c.client(), c.pods.near, c.pods.a.peer)
		}},
		{name: "pod by packets - Service, pod of other node", try: func(c cell) error {
			return c.service(c.client(), c.pods.far, c.pods.remote.peer)
		}},
		{name: "pod by packets - Service, own node", try: func(c cell) error { return c.service(c.client(), c.onHost, c.n1.host) }},
		{name: "E6 pod by packets - Service, itself", only: []string{veth, exclusive}, try: func(c cell) error {
			return c.ask(c.client(), c.pods.self.addr(c.family), c.client(), c.own(c.n1.host))
		}},
		{name: "E4 pod by packets - load balancer, Local, pod of other node", try: func(c cell) error {
			return c.ask(c.client(), c.pods.away.balancer(c.family), c.pods.remote.peer, c.own(c.client()))
		}},
		{name: "pod by packets - ExternalIP", try: func(c cell) error {
			return c.ask(c.client(), c.pods.near.external(c.family), c.pods.a.peer, c.own(c.client()))
		}},
		{name: "pod by packets - NodePort of own node", try: func(c cell) error {
			return c.through(c.client(), c.n1, c.pods.near.port(), c.pods.a.peer, nil)
		}},
		{name: "D1 pod by packets - Service without endpoints", try: func(c cell) error { return c.refused(c.client(), c.pods.none.frontend(c.family)) }},
		{name: "D2 pod by packets - Service, internal Local, none here", try: func(c cell) error { return c.silent(c.client(), c.pods.inner.frontend(c.family)) }},
		{name: "A11 pod by packets - another port of a Service", try: func(c cell) error {
			return c.refused(c.client(), netip.AddrPortFrom(c.pods.near.addr(c.family), servicePort+1))
		}},
	}
}

// otherENIRows are clients outside whose network brings a Service's address by the node's second ENI: what leaves by it has its
// address, as the VPC asks of an ENI (B5, B2, B1).
func otherENIRows() []row {
	var all []row
	for _, to := range []struct {
		name string
		of   func(*service, family) netip.Addr
	}{{"B2 outside - ExternalIP", (*service).external}, {"B5 outside - load balancer", (*service).balancer}, {"B1 outside - ClusterIP", (*service).addr}} {
		all = append(all, row{name: to.name + " by second ENI, pod of other node", try: func(c cell) error {
			return c.ask(c.outside, to.of(c.pods.aside, c.family), c.pods.remote.peer, c.own(c.second))
		}})
	}
	return all
}

// secondENIRows are clients that come by an ENI that is not the node's first one. The VPC drops what leaves by another one.
func secondENIRows() []row {
	through := func(c cell, v *service, by *peer, saw netip.Addr) error {
		return c.request(c.outside, netip.AddrPortFrom(c.second.addr(c.family), v.port()), by, saw)
	}
	return []row{
		{name: "B3 outside - NodePort by second ENI, Cluster, pod of the node", try: func(c cell) error {
			return through(c, c.pods.near, c.pods.a.peer, c.own(c.second))
		}},
		{name: "B3 outside - NodePort by second ENI, Cluster, pod of other node", try: func(c cell) error {
			return through(c, c.pods.far, c.pods.remote.peer, c.own(c.second))
		}},
		{name: "B3 outside - NodePort by second ENI, Local", try: func(c cell) error {
			return through(c, c.pods.local, c.pods.a.peer, c.own(c.outside))
		}},
		{name: "D3 outside - NodePort by second ENI, Local, none here", try: func(c cell) error {
			return c.silent(c.outside, netip.AddrPortFrom(c.second.addr(c.family), c.pods.away.port()))
		}},
		{name: "B3 own node - NodePort at the second ENI's address", try: func(c cell) error {
			return c.request(c.n1.host, netip.AddrPortFrom(c.second.addr(c.family), c.pods.near.port()), c.pods.a.peer, c.own(c.n1.host))
		}},
		{name: "B3 pod - NodePort at the second ENI's address", try: func(c cell) error {
			return c.request(c.pods.other.peer, netip.AddrPortFrom(c.second.addr(c.family), c.pods.near.port()), c.pods.a.peer, c.own(c.pods.other.peer))
		}},
	}
}

// addressRows are clients outside that ask for an address that the network brings to the node, and no link has.
func addressRows() []row {
	var all []row
	for _, to := range []struct {
		name string
		of   func(*service, family) netip.Addr
	}{{"B2 outside - ExternalIP", (*service).external}, {"B5 outside - load balancer", (*service).balancer}} {
		all = append(all,
			row{name: to.name + ", Cluster, pod of the node", try: func(c cell) error {
				return c.ask(c.outside, to.of(c.pods.near, c.family), c.pods.a.peer, c.own(c.n1.host))
			}},
			row{name: to.name + ", Cluster, pod of other node", try: func(c cell) error {
				return c.ask(c.outside, to.of(c.pods.far, c.family), c.pods.remote.peer, c.own(c.n1.host))
			}},
			row{name: to.name + ", Local", try: func(c cell) error {
				return c.ask(c.outside, to.of(c.pods.local, c.family), c.pods.a.peer, c.own(c.outside))
			}},
			row{name: to.name + ", Local, none here", try: func(c cell) error {
				return c.silent(c.outside, netip.AddrPortFrom(to.of(c.pods.away, c.family), servicePort))
			}},
		)
	}
	return append(all, row{name: "B1 outside - ClusterIP", try: func(c cell) error {
		return c.ask(c.outside, c.pods.near.addr(c.family), c.pods.a.peer, c.own(c.n1.host))
	}})
}

// addPacketServices adds the Services that are only for the rows above, and has the network bring their addresses to n1.
func (f *field) addPacketServices(d string, all *services) error {
	p := f.of[d]
	p.away = all.add(d+"-away", backend{p.remote.peer, f.n2})
	p.inner = all.add(d+"-inner", backend{p.remote.peer, f.n2})
	p.none = all.add(d + "-none")
	p.aside = all.add(d+"-aside", backend{p.remote.peer, f.n2})
	p.aside.vips = true
	p.away.nodePort, p.away.local, p.inner.inner = true, true, true
	if p.packets != nil {
		p.self = all.add(d+"-self", backend{p.packets.peer, f.n1})
	}
	errs := []error{f.cloud.RouteTo(f.n1.second, p.aside.vipsOf()...)}
	for _, v := range []*service{p.near, p.far, p.local, p.away} {
		v.vips = true
		errs = append(errs, f.cloud.RouteTo(f.n1.machine, v.vipsOf()...))
	}
	return errors.Join(errs...)
}

// vipsOf are all addresses of a Service of both families.
func (v *service) vipsOf() (addrs []netip.Addr) {
	for _, f := range families {
		addrs = append(addrs, v.addr(f), v.external(f), v.balancer(f))
	}
	return addrs
}
