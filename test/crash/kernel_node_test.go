//go:build node

package crash

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/test/netlab"
)

// aliasPrefix begins the aliases of pods' links on the node, see docs/pod-network.md.
const aliasPrefix = "nearpath:" + network + "/"

// containerOf reads an alias, "" if it is not one of ours.
func containerOf(alias string) string {
	text, ours := strings.CutPrefix(alias, aliasPrefix)
	container, named := strings.CutSuffix(text, "/"+podLink)
	if !ours || !named {
		return ""
	}
	return container
}

// A wiring is what the node's kernel has for pods and their ENIs.
type wiring struct {
	links  map[string]string     // container to link
	routes map[netip.Addr]string // address to link
	rules  map[uint32]int        // mark to table
}

func (w wiring) equal(other wiring) error {
	switch {
	case !maps.Equal(w.links, other.links):
		return fmt.Errorf("the node has the links %v, want %v", w.links, other.links)
	case !maps.Equal(w.routes, other.routes):
		return fmt.Errorf("the node has the routes %v, want %v", w.routes, other.routes)
	case !maps.Equal(w.rules, other.rules):
		return fmt.Errorf("the node has the rules %v, want %v", w.rules, other.rules)
	}
	return nil
}

// readWiring lists everything on the node that looks like a pod's.
func readWiring(node *netlab.NetNS) (w wiring, err error) {
	w = wiring{links: map[string]string{}, routes: map[netip.Addr]string{}, rules: map[uint32]int{}}
	err = node.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range links {
			a := l.Attrs()
			names[a.Index] = a.Name
			if l.Type() == "veth" && strings.HasPrefix(a.Name, "np") {
				w.links[containerOf(a.Alias)] = a.Name
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: hostnet.Protocol, Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if ones, _ := route.Dst.Mask.Size(); ones == 32 {
				w.routes[addressOf(route.Dst)] = names[route.LinkIndex]
			}
		}
		rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Priority: hostnet.PriorityPod}, netlink.RT_FILTER_PRIORITY)
		for _, rule := range rules {
			w.rules[rule.Mark] = rule.Table
		}
		return err
	})
	return w, err
}

func addressOf(n *net.IPNet) netip.Addr {
	if n == nil {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	return addr.Unmap()
}

// hasAddress says whether the pod's link still has the pod's address.
func hasAddress(p *pod) error {
	return p.netns.Do(func() error {
		link, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		if len(addrs) != 1 || addressOf(addrs[0].IPNet) != p.addr {
			return fmt.Errorf("%s has the addresses %v, want %s", p.container, addrs, p.addr)
		}
		return nil
	})
}

// reaches opens a TCP connection between two network namespaces, to an address of the second.
func reaches(from, to *netlab.NetNS, addr netip.Addr) error {
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	return from.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second) // the kernel accepts
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// watchLinks calls seen for every change of a pod's link on the node, with the container ID, until stop. A link has one
// from when it has its alias.
func watchLinks(t *testing.T, node *netlab.NetNS, seen func(container string, gone bool)) (stop func()) {
	t.Helper()
	at, err := netns.GetFromPath(node.Path())
	ok(t, err)
	updates, done, ended := make(chan netlink.LinkUpdate, 100), make(chan struct{}), make(chan struct{})
	err = netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &at})
	ok(t, err)
	go func() {
		defer close(ended)
		for u := range updates {
			if container := containerOf(u.Link.Attrs().Alias); container != "" {
				seen(container, u.Header.Type == unix.RTM_DELLINK)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		ok(t, at.Close())
	}
}
