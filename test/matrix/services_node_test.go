//go:build node

package matrix

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	servicePort = 80
	// firstNodePort and those that follow are given to Services in their order.
	firstNodePort = 30000
)

// A service is a Kubernetes Service of both families and protocols.
type service struct {
	name     string
	number   int
	nodePort bool
	local    bool // externalTrafficPolicy
	inner    bool // internalTrafficPolicy: Local
	vips     bool // it has an external address and a load balancer's
	backends []backend
}

type backend struct {
	*peer
	node *node
}

// services makes Services of a rig; each gets the next number.
type services struct{ all []*service }

func (s *services) add(name string, backends ...backend) *service {
	v := &service{name: name, number: len(s.all) + 1, backends: backends}
	s.all = append(s.all, v)
	return v
}

// addr is the Service's address of a family.
func (v *service) addr(f family) netip.Addr {
	if f == ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:96::1:%x", v.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.96.1.%d", v.number))
}

func (v *service) frontend(f family) netip.AddrPort {
	return netip.AddrPortFrom(v.addr(f), servicePort)
}

// external and balancer are the Service's addresses of a family that are the network's to bring here.
func (v *service) external(f family) netip.Addr { return vip("192.0.2", "2001:db8:2", f, v.number) }
func (v *service) balancer(f family) netip.Addr { return vip("198.51.100", "2001:db8:3", f, v.number) }

func vip(four, six string, f family, number int) netip.Addr {
	if f == ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("%s::%x", six, number))
	}
	return netip.MustParseAddr(fmt.Sprintf("%s.%d", four, number))
}

// port is the Service's port on nodes.
func (v *service) port() uint16 { return uint16(firstNodePort + v.number) } //nolint:gosec // there are few

func (v *service) manifest() string {
	var b strings.Builder
	kind, policy, nodePort, status := "ClusterIP", "", "", ""
	if v.nodePort {
		kind, policy, nodePort = "NodePort", "\n  externalTrafficPolicy: Cluster", fmt.Sprintf(", nodePort: %d", v.port())
	}
	if v.local {
		policy = "\n  externalTrafficPolicy: Local"
	}
	if v.inner {
		policy += "\n  internalTrafficPolicy: Local"
	}
	if v.vips {
		kind = "LoadBalancer"
		policy += fmt.Sprintf("\n  externalIPs: [%s, \"%s\"]", v.external(ipv4), v.external(ipv6))
		status = fmt.Sprintf("status: {loadBalancer: {ingress: [{ip: %s}, {ip: \"%s\"}]}}\n", v.balancer(ipv4), v.balancer(ipv6))
	}
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default}
spec:
  type: %[2]s%[3]s
  clusterIP: %[4]s
  clusterIPs: [%[4]s, "%[5]s"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: tcp, port: %[6]d, protocol: TCP%[7]s}
  - {name: udp, port: %[6]d, protocol: UDP%[7]s}
%[8]s`, v.name, kind, policy, v.addr(ipv4), v.addr(ipv6), servicePort, nodePort, status)
	for _, f := range families {
		fmt.Fprintf(&b, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]s, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports:
- {name: tcp, port: %[4]d, protocol: TCP}
- {name: udp, port: %[4]d, protocol: UDP}
endpoints:
`, v.name, strings.ToLower(string(f)), f, probePort)
		for _, e := range v.backends {
			fmt.Fprintf(&b, "- {addresses: [\"%s\"], nodeName: %s, conditions: {ready: true}}\n", e.addr(f), e.node.Name())
		}
	}
	return b.String()
}

// applyServices writes them all and waits until every node's kernel has them.
func (r *rig) applyServices(ctx context.Context, s *services) error {
	var text strings.Builder
	for _, v := range s.all {
		text.WriteString(v.manifest())
	}
	if err := r.apply("services.yaml", text.String()); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := await(patience, "Services in the kernel of "+n.Name(), func() error { return n.has(ctx, s) }); err != nil {
			return err
		}
	}
	return nil
}

// has says what the node's kernel lacks of the Services' addresses.
func (n *node) has(ctx context.Context, s *services) error {
	var views []struct {
		Frontend, Protocol string
		Backends           []string
	}
	if err := n.api.Get(ctx, "/v1/frontends", &views); err != nil {
		return err
	}
	var missing []error
	for _, v := range s.all {
		for _, f := range families {
			for _, protocol := range []string{"TCP", "UDP"} {
				var addrs []netip.AddrPort
				for _, b := range v.backends {
					if v.inner && b.node != n {
						continue
					}
					addrs = append(addrs, netip.AddrPortFrom(b.addr(f), probePort))
				}
				var want []string
				for _, a := range slices.SortedFunc(slices.Values(addrs), netip.AddrPort.Compare) {
					want = append(want, a.String())
				}
				if !slices.ContainsFunc(views, func(view struct {
					Frontend, Protocol string
					Backends           []string
				},
				) bool {
					return view.Frontend == v.frontend(f).String() && view.Protocol == protocol && slices.Equal(view.Backends, want)
				}) {
					missing = append(missing, fmt.Errorf("%s %s of %s with %v", protocol, v.frontend(f), v.name, want))
				}
			}
		}
	}
	return errors.Join(missing...)
}
