//go:build node

package bpf

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuardedSockets: raw sockets of guarded pods get no way past the programs of links. Nobody else is refused anything, whatever
// its size.
func TestGuardedSockets(t *testing.T) {
	d := start(t, node(t))
	if err := d.Guarded(); err != nil {
		t.Fatal(err)
	}
	guarded := newPod(t, d, Pod{Addrs: addrs([]string{"10.1.0.5"}), Guarded: true})
	free := newPod(t, d, Pod{Addrs: addrs([]string{"10.1.0.6"})})
	for _, tt := range []struct {
		name          string
		level, option int
		free, guarded error
	}{
		{"past queueing disciplines", unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, nil, unix.EPERM},
		{"an XDP socket's ring", unix.SOL_XDP, unix.XDP_TX_RING, unix.ENOPROTOOPT, unix.EPERM},
		{"another option of such sockets", unix.SOL_PACKET, unix.PACKET_LOSS, nil, nil},
		{"another level", unix.SOL_SOCKET, unix.SO_BROADCAST, nil, nil},
	} {
		for pod, want := range map[*netns]error{guarded: tt.guarded, free: tt.free, nil: tt.free} {
			set := func() error {
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.SetsockoptInt(fd, tt.level, tt.option, 1)
			}
			if pod != nil {
				set = func(do func() error) func() error {
					return func() (err error) {
						pod.do(t, func() error { err = do(); return nil })
						return err
					}
				}(set)
			}
			if err := set(); !errors.Is(err, want) {
				t.Errorf("%s, guarded %t: %v, want %v", tt.name, pod == guarded, err, want)
			}
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// The kernel reads as much as a name may have.
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"+strings.Repeat("\x00", 5000)); err != nil {
		t.Errorf("an option longer than a page: %v", err)
	}
	if have, ok, err := d.Pods.Lookup(addrs([]string{"10.1.0.5"})[0]); err != nil || !ok || !have.Guarded {
		t.Errorf("the pod is %+v, %v", have, err)
	}
}
