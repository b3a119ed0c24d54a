package cni

import (
	"encoding/binary"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// What is only added, or is about others, is no reason to look.
func TestConcerns(t *testing.T) {
	route := func(protocol byte) []byte { return []byte{7 + 5: 0, 5: protocol} }
	link := func(flags uint32) []byte {
		data := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(data[8:], flags)
		return data
	}
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
		"a link is down":         {unix.RTM_NEWLINK, link(0), true},
		"a link is up":           {unix.RTM_NEWLINK, link(unix.IFF_UP), false},
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
