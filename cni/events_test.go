package cni

import (
	"encoding/binary"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// What is only added, or is about others, is no reason to look.
func TestConcerns(t *testing.T) {
	route := func(protocol byte) []byte { return []byte{7 + 5: 0, 5: protocol} }
	link := func(flags, index uint32, attrs ...*nl.RtAttr) []byte {
		data := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(data[4:], index)
		binary.NativeEndian.PutUint32(data[8:], flags)
		for _, a := range attrs {
			data = append(data, a.Serialize()...)
		}
		return data
	}
	k := Key{"net", "c1", "eth0"}
	alias := nl.NewRtAttr(unix.IFLA_IFALIAS, nl.ZeroTerminated(k.Alias()))
	named := func(name string) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)) }
	neigh := func(index uint32) []byte {
		data := make([]byte, unix.SizeofNdMsg)
		binary.NativeEndian.PutUint32(data[4:], index)
		return data
	}
	for name, tt := range map[string]struct {
		kind uint16
		data []byte
		want bool
	}{
		"our route goes":         {unix.RTM_DELROUTE, route(hostnet.Protocol), true},
		"another's route goes":   {unix.RTM_DELROUTE, route(2), false},
		"a route comes":          {unix.RTM_NEWROUTE, route(hostnet.Protocol), false},
		"a pod's link is down":   {unix.RTM_NEWLINK, link(0, 7), true},
		"another link is down":   {unix.RTM_NEWLINK, link(0, 8, named("eth3")), false},
		"a link is up":           {unix.RTM_NEWLINK, link(unix.IFF_UP, 7), false},
		"an ENI is back":         {unix.RTM_NEWLINK, link(0, 8, named("dev8"), alias), true},
		"a link is being made":   {unix.RTM_NEWLINK, link(0, 8, named(k.HostLink()), alias), false},
		"a pod's neighbour goes": {unix.RTM_DELNEIGH, neigh(7), true},
		"another neighbour goes": {unix.RTM_DELNEIGH, neigh(8), false},
		"an address comes":       {unix.RTM_NEWADDR, nil, true},
		"cut off":                {unix.RTM_DELNEIGH, []byte{2}, false},
	} {
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: tt.kind}, Data: tt.data}
		if got := concerns([]syscall.NetlinkMessage{m}, func(index int) bool { return index == 7 }); got != tt.want {
			t.Errorf("%s: concerns %v", name, got)
		}
	}
}

// What a verb does while the Collector looks is not lost with what the look has found.
func TestPodLinks(t *testing.T) {
	var p podLinks
	if !p.has(1) {
		t.Error("before the first look a link leads to no pod")
	}
	p.replace(p.look(), map[int]bool{1: true})
	look := p.look()
	p.set(2, true)
	p.set(1, false)
	p.replace(look, map[int]bool{1: true})
	if p.has(1) || !p.has(2) || p.has(3) {
		t.Errorf("links are %v", p.indices)
	}
	p.replace(p.look(), map[int]bool{3: true})
	if p.has(2) || !p.has(3) {
		t.Errorf("links are %v", p.indices)
	}
}
