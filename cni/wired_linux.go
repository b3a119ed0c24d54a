package cni

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/hostnet"
)

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
