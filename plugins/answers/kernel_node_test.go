//go:build node

package answers

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns"
)

var dnsServer = netip.MustParseAddr("169.254.20.10")

// A realKernel is this machine's, with a pod for each scope that asks.
type realKernel struct {
	*bpf.Answers
	t        *testing.T
	datapath *bpf.Datapath
	pods     map[uint32]netip.Addr
}

// loadKernel loads the programs with maps of their own, attached to nothing: pods are on the loopback link.
func loadKernel(t *testing.T, scopes ...uint32) *realKernel {
	t.Helper()
	pins := t.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(pins, 0); err != nil {
			t.Error(err)
		}
	})
	d, err := bpf.Load(bpf.Config{PinDir: filepath.Join(pins, "nearpath"), CgroupRoot: "/sys/fs/cgroup"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &realKernel{Answers: d.Answers, t: t, datapath: d, pods: map[uint32]netip.Addr{}}
	for _, scope := range scopes {
		pod := netip.AddrFrom4([4]byte{10, 64, 0, byte(len(k.pods) + 1)})
		if err := d.Pods.Put(bpf.Pod{Addrs: []netip.Addr{pod}, Link: 1, Parent: 1, Scope: scope}); err != nil {
			t.Fatal(err)
		}
		k.pods[scope] = pod
	}
	if err := errors.Join(d.Answers.SetServers([]netip.Addr{dnsServer}), d.Answers.Beat()); err != nil {
		t.Fatal(err)
	}
	return k
}

// Ask has the program of a pod's link answer.
func (k *realKernel) Ask(name string, qtype uint16, scope uint32) *dns.Msg {
	k.t.Helper()
	query, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		k.t.Fatal(err)
	}
	raw, err := k.datapath.Ask(k.pods[scope], dnsServer, query)
	if err != nil {
		k.t.Fatal(err)
	}
	if raw == nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		k.t.Fatal(err)
	}
	return m
}

// Keys are the answers that it holds.
func (k *realKernel) Keys() []bpf.AnswerKey {
	var keys []bpf.AnswerKey
	for a, err := range k.All() {
		if err != nil {
			k.t.Fatal(err)
		}
		if a.Type != 0 {
			keys = append(keys, a.AnswerKey)
		}
	}
	return keys
}

func TestHotNameStaysInThisKernel(t *testing.T) { checkHotName(t, loadKernel(t, 0), 5, 1000) }

func TestSearchesInThisKernel(t *testing.T) { checkSearches(t, loadKernel(t, 0, 7, 8)) }

// What one agent has published is kept fresh by the next, and given meanwhile.
func TestNextAgentAdopts(t *testing.T) {
	k := loadKernel(t, 0)
	up := startUpstream(t, 3)
	body := "answers\n" + cacheBody + "forward . " + up.addr + " {\n prefer_udp\n}\n"
	first := nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{Answers: k})
	Provide(Node{External: first})
	stop := run(t, first)
	<-first.Ready()
	published := new(dns.Msg).SetQuestion(www, dns.TypeA)
	published.Response = true
	for _, name := range []string{www, "www.example.net."} {
		m := published.Copy()
		m.Question[0].Name = name
		rr, err := dns.NewRR(name + " 3 IN A 192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
		for scope := range uint32(2) {
			for range 2 {
				first.Observe(first.Era(), bpf.AnswerKey{Name: name, Type: dns.TypeA}, nodelocaldns.ExternalReply{Msg: m, Scope: scope})
			}
		}
	}
	stop()
	if keys := k.Keys(); len(keys) != 4 {
		t.Fatalf("%v are in the kernel", keys)
	}
	n := startNodeOn(t, k, body, Node{}, nodelocaldns.ExternalConfig{})
	<-n.external.Ready()
	if keys := k.Keys(); len(keys) != 2 || n.external.Counts().Held != 2 {
		t.Fatalf("%v are in the kernel, %+v", keys, n.external.Counts())
	}
	n.until("refreshed", func() bool { n.ask(www, dns.TypeA, 0); return n.external.Counts().Refreshed > 0 })
	if top := n.external.Top(2); len(top) != 2 || top[0].Name != www {
		t.Errorf("top %+v", top)
	}
}
