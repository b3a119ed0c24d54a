package hostnet

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// subscribe has Run woken when something of interest changes or our nftables table does, until stop is called. Of
// settings the kernel tells forwarding and rp_filter (netconf); others make a difference with what they let happen, such
// as the route of a router advertisement.
func (h *Host) subscribe() (stop func(), err error) {
	var route, nft *nl.NetlinkSocket
	err = h.netns.Do(func(ns.NetNS) (err error) {
		route, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
			unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
			unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
		if err != nil {
			return err
		}
		// A kernel without nftables has nothing to tell.
		if nft, err = nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil
		}
		return err
	})
	if err != nil {
		if route != nil {
			route.Close()
		}
		return nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	stopped := make(chan struct{})
	endRoute := h.follow(route, h.concerns, stopped)
	endNFT := func() {}
	if nft != nil {
		endNFT = h.follow(nft, changesNAT, stopped)
	}
	stop = func() {
		close(stopped)
		endRoute()
		endNFT()
	}
	return stop, nil
}

// follow signals what concerns us from a goroutine of its own. The function it returns ends that.
func (h *Host) follow(socket *nl.NetlinkSocket, concerns func([]syscall.NetlinkMessage) bool, stopped <-chan struct{}) (end func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := h.receive(socket, concerns, stopped); err != nil {
			h.log.Error("network changes are no longer seen at once", "err", err)
		}
	}()
	return func() {
		socket.Close() // ends the reader
		<-ended
	}
}

func (h *Host) receive(socket *nl.NetlinkSocket, concerns func([]syscall.NetlinkMessage) bool, stopped <-chan struct{}) error {
	for {
		messages, _, err := socket.Receive()
		select {
		case <-stopped:
			return nil
		default:
		}
		full := errors.Is(err, unix.ENOBUFS) // an event too: something has changed
		if err != nil && !full {
			return err
		}
		if !full && !concerns(messages) {
			continue
		}
		h.announce()
		h.wake()
	}
}

// announce wakes those who wait for a link.
func (h *Host) announce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// concerns says whether the messages are of interest now.
func (h *Host) concerns(messages []syscall.NetlinkMessage) bool {
	h.mu.Lock()
	i := interest{links: h.links, enis: h.eniLinks, macs: map[string]bool{}}
	for mac := range h.enis {
		i.macs[mac] = true
	}
	h.mu.Unlock()
	return i.of(messages)
}

// interestIn needs h.mu.
func (h *Host) interestIn(wanted Wanted, found Found) {
	links, enis := map[int]bool{}, map[int]bool{}
	for _, e := range h.enis {
		if l, ok := found.eniLink(e); ok {
			enis[l.Index], links[l.Index] = true, true
		}
	}
	for _, l := range found.outsideLinks(wanted) {
		links[l.Index] = true
	}
	for _, l := range found.Links {
		if _, companion := l.companionSlot(); companion || l.Name == "lo" {
			links[l.Index] = true
		}
	}
	h.links, h.eniLinks = links, enis
}
