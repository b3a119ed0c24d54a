package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// subscribe delivers a signal when something of the node changes that a pod may need, until stop is called.
func (s *Server) subscribe() (events <-chan struct{}, stop func(), err error) {
	var socket *nl.NetlinkSocket
	err = s.host.Do(func(ns.NetNS) (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	signal, stopped, ended := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.receive(socket, signal, stopped); err != nil {
			s.log.Error("changes to what pods need are no longer seen at once", "err", err)
		}
	}()
	return signal, func() {
		close(stopped)
		socket.Close() // ends the reader
		<-ended
	}, nil
}

func (s *Server) receive(socket *nl.NetlinkSocket, signal chan<- struct{}, stopped <-chan struct{}) error {
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
		if !full && !concerns(messages, s.podLinks.has) {
			continue
		}
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}

// concernsLink says whether a link of a pod went down, or an ENI came back that still has a pod's alias. Others' links go
// up and down all the time, and so do links that a verb is at work on.
func concernsLink(data []byte, leadsToPod func(index int) bool) bool {
	m := nl.DeserializeIfInfomsg(data)
	if m.Flags&unix.IFF_UP != 0 {
		return false
	}
	if leadsToPod(int(m.Index)) {
		return true
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return false
	}
	var name, alias string
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_IFALIAS:
			alias = unix.ByteSliceToString(a.Value)
		}
	}
	k, ours := keyOf(alias)
	return ours && name != k.HostLink()
}

// concerns says whether messages tell of something that went, or of a change of the node's addresses. What is added harms
// nobody, and every ADD adds. Neighbours go all the time on other links than pods'.
func concerns(messages []syscall.NetlinkMessage, leadsToPod func(index int) bool) bool {
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_DELROUTE:
			if len(m.Data) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m.Data).Protocol == hostnet.Protocol {
				return true
			}
		case unix.RTM_NEWLINK:
			if len(m.Data) >= unix.SizeofIfInfomsg && concernsLink(m.Data, leadsToPod) {
				return true
			}
		case unix.RTM_DELNEIGH:
			// The index is after the family, struct ndmsg.
			if len(m.Data) >= unix.SizeofNdMsg && leadsToPod(int(binary.NativeEndian.Uint32(m.Data[4:]))) {
				return true
			}
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			return true
		}
	}
	return false
}
