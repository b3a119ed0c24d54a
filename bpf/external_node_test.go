//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExternalAddressSocket: whoever is inside reaches what stands behind a load balancer's address or an external IP
// without leaving the node, with the cluster's list whatever the policies (reference row E4), and is refused when nobody
// stands there (row D1).
func TestExternalAddressSocket(t *testing.T) {
	d := start(t, node(t))
	for _, kind := range []FrontendKind{ExternalIP, LoadBalancer} {
		for _, family := range []struct{ listen, vip string }{
			{"127.0.0.1:0", "203.0.113.7:80"}, {"[::1]:0", "[2001:db8::7]:80"},
		} {
			vip := frontend(family.vip, tcp)
			b := Block{
				Cluster:       []netip.AddrPort{greeter(t, family.listen, "a")},
				InternalLocal: true, InternalDrop: true, ExternalLocal: true, ExternalDrop: true,
			}
			if err := errors.Join(d.Services.Publish(9, b), d.Services.PutFrontend(vip, kind, 9)); err != nil {
				t.Fatal(err)
			}
			if name, err := greet(t, family.vip); err != nil || name != "a" {
				t.Errorf("%s %s: %q, %v", kind, family.vip, name, err)
			}
			b.Cluster = nil
			if err := d.Services.Publish(9, b); err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", family.vip)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s without backends: %v, want %v", kind, family.vip, err, unix.ECONNREFUSED)
			}
		}
	}
}
