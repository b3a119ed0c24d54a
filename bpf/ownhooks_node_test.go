//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Ids of policy that tests give, and a point of theirs.
const (
	policySet   = 71
	policyClass = 72
	policyPort  = 8080
)

// isolate says what policy lets a pod receive, and send, unless it is nil.
func isolate(t *testing.T, d *Datapath, pod netip.Addr, ingress, egress []PolicyInterval) {
	t.Helper()
	number, err := d.Policy.Number(pod)
	if err != nil || number == 0 {
		t.Fatalf("the number of %s is %d, %v", pod, number, err)
	}
	var sets PolicySets
	for i, allowed := range [][]PolicyInterval{ingress, egress} {
		if allowed == nil {
			continue
		}
		sets[i] = policySet + uint64(i)
		err = errors.Join(err, d.Policy.PutVerdict(PolicyKey{Set: sets[i], Class: policyClass}, allowed), d.Policy.PutVerdict(PolicyKey{Set: sets[i]}, nil))
	}
	if err := errors.Join(err, d.Policy.PutPod(number, sets), d.Policy.Bump()); err != nil {
		t.Fatal(err)
	}
}

// denials counts what policy has dropped of a pod.
func denials(t *testing.T, d *Datapath, pod netip.Addr) (ingress, egress uint64) {
	t.Helper()
	number, err := d.Policy.Number(pod)
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := d.Policy.Counts(number)
	if err != nil {
		t.Fatal(err)
	}
	return in.Denied, out.Denied
}

// A policed is a pod with programs in its own namespace, and somebody that it talks to.
type policed struct {
	*Datapath
	pod, peer         *netns
	podAddr, peerAddr netip.Addr
}

// try has the two talk in both directions under each policy. What policy drops is counted, so that silence is nobody's else doing.
func (p policed) try(t *testing.T) {
	t.Helper()
	none := []PolicyInterval{}
	all := []PolicyInterval{{Lo: 0, Hi: MaxPoint}}
	other := []PolicyInterval{{Lo: tcp<<16 | policyPort + 1, Hi: tcp<<16 | 0xffff}, {Lo: udp<<16 | policyPort + 1, Hi: udp<<16 | 0xffff}}
	if err := p.Policy.PutPeer(p.peerAddr, policyClass); err != nil {
		t.Fatal(err)
	}
	kept := map[bool]net.Conn{}
	for _, inward := range []bool{true, false} {
		kept[inward] = p.dial(t, inward, udp)
		p.talks(t, kept[inward])
	}
	for _, step := range []struct {
		name            string
		ingress, egress []PolicyInterval
		in, out         bool // whether a connection to the pod, and one from it, goes on
	}{
		{"nothing in", none, nil, false, true},
		{"another port in", other, nil, false, true},
		{"the peer in", all, nil, true, true},
		{"nothing out", nil, none, true, false},
		{"the peer out, nothing in", none, all, false, true},
		{"none", nil, nil, true, true},
	} {
		isolate(t, p.Datapath, p.podAddr, step.ingress, step.egress)
		for inward, allowed := range map[bool]bool{true: step.in, false: step.out} {
			if allowed {
				p.talks(t, kept[inward])
				for _, proto := range []uint8{tcp, udp} {
					p.talks(t, p.dial(t, inward, proto))
				}
				continue
			}
			p.dropped(t, step.name+", a connection that is open", inward, func() { say(kept[inward]) })
			p.dropped(t, step.name+", a datagram", inward, func() { say(p.dial(t, inward, udp)) })
			p.dropped(t, step.name+", TCP", inward, func() { p.knock(t, inward) })
		}
	}
	if err := p.Policy.DeletePeer(p.peerAddr); err != nil {
		t.Fatal(err)
	}
}

// ends are who asks, and where.
func (p policed) ends(inward bool) (*netns, netip.AddrPort) {
	if inward {
		return p.peer, netip.AddrPortFrom(p.podAddr, policyPort)
	}
	return p.pod, netip.AddrPortFrom(p.peerAddr, policyPort)
}

func (p policed) dial(t *testing.T, inward bool, proto uint8) net.Conn {
	t.Helper()
	asks, to := p.ends(inward)
	conn, err := asks.dial(t, proto, to, patience)
	if err != nil {
		t.Fatalf("%s to %s: %v", network(proto), to, err)
	}
	return conn
}

// knock tries to open a connection; nobody waits for an answer.
func (p policed) knock(t *testing.T, inward bool) {
	t.Helper()
	asks, to := p.ends(inward)
	if conn, err := asks.dial(t, tcp, to, 20*time.Millisecond); err == nil {
		t.Errorf("%s to %s: a connection", conn.LocalAddr(), conn.RemoteAddr())
	}
}

func say(conn net.Conn) { _, _ = conn.Write([]byte("hello")) }

// talks has somebody answer.
func (p policed) talks(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, _, err := ask(conn, patience); err != nil {
		t.Errorf("%s to %s: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
	}
}

// dropped waits until policy has dropped what is sent.
func (p policed) dropped(t *testing.T, what string, inward bool, send func()) {
	t.Helper()
	count := func() uint64 {
		ingress, egress := denials(t, p.Datapath, p.podAddr)
		if inward {
			return ingress
		}
		return egress
	}
	before := count()
	send()
	for deadline := time.Now().Add(patience); count() == before; {
		if time.Now().After(deadline) {
			t.Fatalf("%s, towards the pod %t: it was not dropped", what, inward)
		}
	}
}

// TestPolicyExclusive: the pod's own ENI is judged in both directions, whoever is behind it; what comes by the side is, too, and the node
// is not.
func TestPolicyExclusive(t *testing.T) {
	c := newCluster(t)
	c.giveENI(t)
	for i := range nodeAddrs {
		c.serveAll(t, i, policyPort)
		pod := netip.MustParseAddr(podAddrs[i])
		for peer, addr := range map[*netns]string{c.remote: remoteAddrs[i], c.neighbour: neighbourAddrs[i]} {
			policed{c.Datapath, c.pod, peer, pod, netip.MustParseAddr(addr)}.try(t)
		}
		isolate(t, c.Datapath, pod, []PolicyInterval{}, []PolicyInterval{})
		own := policed{c.Datapath, c.pod, c.node, pod, netip.MustParseAddr(nodeAddrs[i])}
		for _, inward := range []bool{true, false} {
			own.talks(t, own.dial(t, inward, tcp))
		}
		isolate(t, c.Datapath, pod, nil, nil)
	}
}
