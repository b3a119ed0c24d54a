package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// errInterfaceExists says that the container already has an interface of the name; ADD must refuse it (CNI
// specification 1.1.0, section 2, ADD).
var errInterfaceExists = errors.New("the container already has an interface of that name")

// openHost opens the node's network namespace; an empty path is that of the process.
func openHost(path string) (ns.NetNS, error) {
	open := ns.GetCurrentNS
	if path != "" {
		open = func() (ns.NetNS, error) { return ns.GetNS(path) }
	}
	host, err := open()
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	return host, nil
}

// openPod opens a container's network namespace and refuses the node's own.
func openPod(path string, host ns.NetNS) (ns.NetNS, error) {
	pod, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	same, err := sameFile(pod.Fd(), host.Fd())
	if err == nil && same {
		err = fmt.Errorf("network namespace %s is the node's own", path)
	}
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	return pod, nil
}

// sameFile compares namespaces by device and inode (namespaces(7)).
func sameFile(a, b uintptr) (bool, error) {
	var left, right unix.Stat_t
	if err := errors.Join(unix.Fstat(int(a), &left), unix.Fstat(int(b), &right)); err != nil {
		return false, fmt.Errorf("compare network namespaces: %w", err)
	}
	return left.Dev == right.Dev && left.Ino == right.Ino, nil
}

// prepare makes sure that the pod has no such interface, gives the node's namespace a number in the pod's, and reads the
// pod's cookie.
func (n namespaces) prepare(ifName string) (PodEntry, error) {
	entry := PodEntry{}
	err := n.pod.Do(func(host ns.NetNS) error {
		switch _, err := netlinksafe.LinkByName(ifName); {
		case err == nil:
			return errInterfaceExists
		case !isNoLink(err):
			return err
		}
		var err error
		if entry.HostNSID, err = numberHost(n.host); err != nil {
			return err
		}
		entry.NetNSCookie, err = bpf.NetNSCookie()
		return err
	})
	if err != nil {
		return PodEntry{}, fmt.Errorf("prepare pod namespace: %w", err)
	}
	return entry, nil
}

// identify reads what prepare has set up, for CHECK.
func (n namespaces) identify() (PodEntry, error) {
	entry := PodEntry{}
	err := n.pod.Do(func(ns.NetNS) error {
		id, err := netlink.GetNetNsIdByFd(int(n.host.Fd()))
		if err != nil {
			return fmt.Errorf("read the number of the node's namespace: %w", err)
		}
		entry.HostNSID = int32(id)
		entry.NetNSCookie, err = bpf.NetNSCookie()
		return err
	})
	return entry, err
}

// numberHost runs in the pod. The kernel picks a free number when asked for -1; a namespace that has one keeps it.
func numberHost(host ns.NetNS) (int32, error) {
	fd := int(host.Fd())
	id, err := netlink.GetNetNsIdByFd(fd)
	if err == nil && id < 0 {
		if err = netlink.SetNetNsIdByFd(fd, -1); err == nil || errors.Is(err, unix.EEXIST) {
			id, err = netlink.GetNetNsIdByFd(fd)
		}
	}
	if err == nil && id < 0 {
		err = errors.New("the kernel gave it none")
	}
	if err != nil {
		return -1, fmt.Errorf("number the node's namespace: %w", err)
	}
	return int32(id), nil
}

// hostState is what the sweep and DEL look at on the node.
type hostState struct {
	links  map[string]int     // index by name
	rules  map[netip.Addr]int // table by source address of our pod rules
	routes map[netip.Addr]int // link by destination of our routes to single addresses
}

func readHost(host ns.NetNS) (hostState, error) {
	state := hostState{links: map[string]int{}, rules: map[netip.Addr]int{}, routes: map[netip.Addr]int{}}
	err := host.Do(func(ns.NetNS) error {
		links, err := netlinksafe.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			if l.Type() == "veth" {
				state.links[l.Attrs().Name] = l.Attrs().Index
			}
		}
		return errors.Join(state.readFamily(netlink.FAMILY_V4), state.readFamily(netlink.FAMILY_V6))
	})
	return state, err
}

func (s hostState) readFamily(family int) error {
	rules, err := podRules(family, hostnet.PriorityPod)
	if err != nil {
		return err
	}
	for _, r := range rules {
		s.rules[addressOf(r.Src)] = r.Table
	}
	routes, err := podRoutes(family)
	if err != nil {
		return err
	}
	for _, r := range routes {
		s.routes[addressOf(r.Dst)] = r.LinkIndex
	}
	return nil
}

// podRoutes lists our routes of the main table to single addresses.
func podRoutes(family int) ([]netlink.Route, error) {
	routes, err := netlinksafe.RouteListFiltered(family, &netlink.Route{Protocol: hostnet.Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	ours := routes[:0]
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).IsSingleIP() {
			ours = append(ours, r)
		}
	}
	return ours, nil
}

// Wired lists the attachments that the node has links for, with the addresses it routes to them: what pods use, whatever
// the pool says. The leases have no slot. NetNS is the path of the node's network namespace; empty means that of the
// process.
func Wired(netns, recordsDir string) ([]Leased, error) {
	host, err := openHost(netns)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	var links []netlink.Link
	err = host.Do(func(ns.NetNS) (err error) {
		links, err = netlinksafe.LinkList()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var found []Leased
	for _, l := range links {
		k, ok := keyOf(l.Attrs().Alias)
		if !ok || l.Attrs().Name != k.HostLink() {
			continue
		}
		addrs, err := addressesBehind(host, l.Attrs().Name)
		if err != nil {
			return nil, err
		}
		found = append(found, Leased{Attachment{Key: k}, Lease{Addrs: addrs}})
	}
	recorded, err := records(recordsDir).list()
	return merge(found, recorded), err
}

// merge adds what records know of attachments that have no link of their own on the node, or a whole ENI.
func merge(wired []Leased, recorded []record) []Leased {
	for _, r := range recorded {
		if r.Datapath == Veth {
			continue
		}
		wired = slices.DeleteFunc(wired, func(l Leased) bool { return l.Attachment.Key == r.Key })
		wired = append(wired, Leased{Attachment{Key: r.Key, Pod: r.Pod}, Lease{Addrs: r.Addrs, MAC: r.MAC, Exclusive: r.Datapath == Exclusive}})
	}
	return wired
}

// addressesBehind are the addresses that the node routes to a link of ours: those of a pod whose lease is not known.
func addressesBehind(host ns.NetNS, link string) (addrs []netip.Addr, err error) {
	err = host.Do(func(ns.NetNS) error {
		l, err := netlinksafe.LinkByName(link)
		if isNoLink(err) {
			return nil
		}
		if err != nil {
			return err
		}
		routes, err := netlinksafe.RouteList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if p := prefixOf(r.Dst); r.Protocol == hostnet.Protocol && p.IsSingleIP() {
				addrs = append(addrs, p.Addr())
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read routes of %s: %w", link, err)
	}
	return addrs, nil
}
