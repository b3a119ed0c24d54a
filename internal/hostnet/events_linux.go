package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// subscribe delivers a signal when links, routes, rules or our nftables table change, until stop is called.
func (h *Host) subscribe() (events <-chan struct{}, stop func(), err error) {
	var route, nft *nl.NetlinkSocket
	err = h.netns.Do(func(ns.NetNS) (err error) {
		route, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
			unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
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
		return nil, nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	signal, stopped := make(chan struct{}, 1), make(chan struct{})
	endRoute := h.follow(route, anyChange, signal, stopped)
	endNFT := func() {}
	if nft != nil {
		endNFT = h.follow(nft, changesNAT, signal, stopped)
	}
	stop = func() {
		close(stopped)
		endRoute()
		endNFT()
	}
	return signal, stop, nil
}

// follow signals what concerns us from a goroutine of its own. The function it returns ends that.
func (h *Host) follow(socket *nl.NetlinkSocket, concerns func([]syscall.NetlinkMessage) bool, signal chan<- struct{}, stopped <-chan struct{}) (end func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := h.receive(socket, concerns, signal, stopped); err != nil {
			h.log.Error("network changes are no longer seen at once", "err", err)
		}
	}()
	return func() {
		socket.Close() // ends the reader
		<-ended
	}
}

func (h *Host) receive(socket *nl.NetlinkSocket, concerns func([]syscall.NetlinkMessage) bool, signal chan<- struct{}, stopped <-chan struct{}) error {
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
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}

// announce wakes those who wait for a link.
func (h *Host) announce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

func anyChange([]syscall.NetlinkMessage) bool { return true }

// changesNAT says whether a message is about our table. Others write theirs often: kube-proxy with every Service.
func changesNAT(messages []syscall.NetlinkMessage) bool {
	for _, m := range messages {
		if tableOf(m.Data) == natTable {
			return true
		}
	}
	return false
}

// tableOf is the name of the table of family inet that an nftables message is about, empty if there is none. After the
// header (struct nfgenmsg) come attributes, and number 1 is the table's name in all kinds of messages that have one
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE).
func tableOf(message []byte) string {
	const header, attrHeader = 4, 4
	if len(message) < header || message[0] != unix.NFPROTO_INET {
		return ""
	}
	for rest := message[header:]; len(rest) >= attrHeader; {
		length, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if length < attrHeader || length > len(rest) {
			return ""
		}
		if kind == unix.NFTA_TABLE_NAME {
			return unix.ByteSliceToString(rest[attrHeader:length])
		}
		rest = rest[min((length+3)&^3, len(rest)):] // attributes are aligned to 4 bytes
	}
	return ""
}
