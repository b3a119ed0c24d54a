//go:build node

package bpf

import (
	"errors"
	"testing"
)

// TestGoneClient: connections that a pod opened go with the pod, though their backend stays: who gets its address next
// must not get answers that were for it.
func TestGoneClient(t *testing.T) {
	for family := range nodeAddrs {
		client, vip, backend := at(neighbourAddrs[family], 40000), at(vips[family], 80), at(remoteAddrs[family], 8080)
		pod := Pod{Addrs: addrs(neighbourAddrs), Link: podLink, Slot: 1}
		other := Pod{Addrs: addrs([]string{"10.1.0.7", "fd01::7"}), Link: podLink, Slot: 1}
		g := newGate(t, node(t), family, tcp, one(backend.Addr().String()))
		if err := g.Services.PutFrontend(Frontend{Addr: vip, Protocol: tcp}, ClusterIP, 1); err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct {
			after func() error
			flows int
		}{
			"swept":               {func() error { g.sweep(t, 0); return nil }, 2},
			"deleted, not swept":  {func() error { return g.Pods.Delete(pod.Addrs) }, 2},
			"deleted, swept":      {func() error { err := g.Pods.Delete(pod.Addrs); g.sweep(t, 0); return err }, 0},
			"deleted, put again":  {func() error { return errors.Join(g.Pods.Delete(pod.Addrs), g.Pods.Put(pod)) }, 0},
			"put, never deleted":  {func() error { return g.Pods.Put(pod) }, 2},
			"another one deleted": {func() error { err := g.Pods.Delete(other.Addrs); g.sweep(t, 0); return err }, 2},
		} {
			t.Run(name+", "+client.Addr().String(), func(t *testing.T) {
				g.sweep(t, 2*flowEstablished) // what another case left
				if err := errors.Join(g.Pods.Put(pod), g.Pods.Put(other)); err != nil {
					t.Fatal(err)
				}
				_, out := runFrame(t, g.packet.FromPod, segment{proto: tcp, from: client, to: vip, flags: syn, hops: 64}.frame())
				if got := parseFrame(t, out); got.from != client || got.to != backend || g.count(t) != 2 {
					t.Fatalf("the pod's packet became %s, %d flows", got, g.count(t))
				}
				if err := tt.after(); err != nil {
					t.Fatal(err)
				}
				if n := g.count(t); n != tt.flows {
					t.Errorf("%d flows, want %d", n, tt.flows)
				}
			})
		}
	}
}
