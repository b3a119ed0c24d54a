//go:build node

package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// packetsEnv says how many packets TestAnswersAgree makes up beside the corpus.
const packetsEnv = "NEARPATH_DNS_PACKETS"

// madeUp is how many it makes up unless told.
const madeUp = 20_000

// How a datagram's sum is.
const (
	sumMade = iota
	sumOpen
	sumNone
	sumWrong
)

// A shot is a datagram that a pod sends.
type shot struct {
	pod     int // of the duel's
	v6      bool
	sum     int
	payload []byte
	bend    func(frame []byte) []byte // the frame at last, nil: leave it
}

// frame is the packet as the program gets it.
func (d *duel) frame(s shot) []byte {
	family := 0
	if s.v6 {
		family = 1
	}
	from, to := d.pods[s.pod].Addrs[family], addrs(dnsServers)[family]
	f := dnsFrame(netip.AddrPortFrom(from, 40053), netip.AddrPortFrom(to, 53), s.payload)
	check := f[len(f)-len(s.payload)-2:]
	switch s.sum {
	case sumOpen:
		n := len(s.payload) + 8
		head := uint32(onesSum(0, from.AsSlice())) + uint32(onesSum(0, to.AsSlice())) + udp + uint32(n)
		binary.BigEndian.PutUint16(check, onesSum(head, nil))
	case sumNone:
		check[0], check[1] = 0, 0
	case sumWrong:
		check[1] ^= 0x10
	}
	if s.bend != nil {
		f = s.bend(f)
	}
	return f
}

// fire gives the packet to the program and to the reference, and compares.
func (d *duel) fire(t *testing.T, s shot) DNSOutcome {
	t.Helper()
	f := d.frame(s)
	before, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	opts := &ebpf.RunOptions{Data: f, DataOut: d.buf}
	code, err := d.packet.FromPod.Run(opts)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(f), err)
	}
	after, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	scope := d.pods[s.pod].Scope
	reply, turns, outcome := d.ref.answer(f, scope, before)
	if !d.agrees(reply, turns, f, int32(code), opts.DataOut) {
		// A second may have passed meanwhile.
		reply, turns, outcome = d.ref.answer(f, scope, after)
	}
	if !d.agrees(reply, turns, f, int32(code), opts.DataOut) {
		t.Errorf("the reference says %s, the program %d to\n%x:\n%x instead of\n%x", outcome, int32(code), f, opts.DataOut, reply)
	}
	d.outcomes[s.pod][outcome]++
	return outcome
}

// wantCounts compares what the program has counted of each pod.
func (d *duel) wantCounts(t *testing.T) {
	t.Helper()
	counts, err := d.Answers.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for i, pod := range d.pods {
		o := d.outcomes[i]
		want := DNSCounts{Hit: o[DNSHit], Negative: o[DNSNegative], Miss: o[DNSMiss], Punt: o[DNSPunt], Expired: o[DNSExpired]}
		if got := counts[pod.Addrs[0]]; got != want {
			t.Errorf("counted of %s: %+v, want %+v", pod.Addrs[0], got, want)
		}
	}
}

// agrees holds the program to what the reference says. What is not answered is not changed, and dropped if no pod may send it.
func (d *duel) agrees(reply []byte, turns turning, f []byte, code int32, out []byte) bool {
	switch {
	case reply != nil:
		return code == redirect && turns.same(reply, out)
	case d.stray(f):
		return code == drop && string(out) == string(f)
	default:
		return code == pass && string(out) == string(f)
	}
}

// stray says whether a packet's addresses cannot be read, or whether its source is no pod's.
func (d *duel) stray(f []byte) bool {
	source, broken := f[26:30], f[14]>>4 != 4 || f[14]&0xf < 5
	if f[12] == 0x86 {
		source, broken = f[22:38], f[14]>>4 != 6 || f[20] == unix.IPPROTO_FRAGMENT && len(f) < 14+40+8
	}
	addr, _ := netip.AddrFromSlice(source)
	return broken || !slices.ContainsFunc(d.pods, func(p Pod) bool { return slices.Contains(p.Addrs, addr) })
}

// TestAnswersAgree has the program and the reference answer the same packets: verdicts and bytes are the same, and what is not
// answered is not changed. The packets are the corpus, in all families and sums, and what becomes of it when bytes change,
// are missing, or are too many.
func TestAnswersAgree(t *testing.T) {
	d := newDuel(t)
	outcomes := map[DNSOutcome]int{}
	var corpus [][]byte
	for _, m := range questions() {
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		corpus = append(corpus, b)
		for i := range 16 {
			outcomes[d.fire(t, shot{pod: i & 1, v6: i&2 != 0, sum: i >> 2, payload: b})]++
		}
		if t.Failed() {
			t.Fatalf("on %v", m)
		}
	}
	t.Logf("%d questions: %v", len(corpus), outcomes)
	n := madeUp
	if text := os.Getenv(packetsEnv); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	clear(outcomes)
	rng := rand.New(rand.NewPCG(6, 4))
	for i := range n {
		if i%100_000 == 0 {
			d.beat(t)
		}
		outcomes[d.fire(t, makeUp(rng, corpus))]++
		if t.Failed() {
			t.Fatalf("packet %d", i)
		}
	}
	t.Logf("%d made up: %v", n, outcomes)
	if outcomes[DNSHit] == 0 || outcomes[DNSNegative] == 0 || outcomes[DNSMiss] == 0 || outcomes[DNSPunt] == 0 || outcomes[DNSExpired] == 0 {
		t.Error("not every outcome")
	}
	d.wantCounts(t)
}

// makeUp bends a question of the corpus: its bytes, its length, or the headers before it.
func makeUp(rng *rand.Rand, corpus [][]byte) shot {
	b := append([]byte(nil), corpus[rng.IntN(len(corpus))]...)
	s := shot{pod: rng.IntN(2), v6: rng.IntN(2) == 0, sum: max(0, rng.IntN(9)-5)}
	for range rng.IntN(4) {
		switch at := rng.IntN(len(b)); rng.IntN(10) {
		case 0:
			b[at] = byte(rng.Uint32())
		case 1:
			b[at] ^= 1 << rng.IntN(8)
		case 2:
			b[at] = []byte{0, 1, 63, 64, 0xc0, 0xff}[rng.IntN(6)]
		case 3:
			b = b[:at+1]
		case 4:
			b = append(b, make([]byte, rng.IntN(20))...)
		case 5:
			if rng.IntN(10) == 0 {
				b = append(b, make([]byte, rng.IntN(2500))...)
			}
		case 6:
			other := corpus[rng.IntN(len(corpus))]
			b = append(b[:at:at], other[rng.IntN(len(other)):]...)
		case 7:
			b[at] ^= 0x20 // the case of a letter
		}
		if len(b) == 0 {
			b = []byte{0}
		}
	}
	s.payload = b[:min(len(b), 3000)] // a page is all that the kernel runs programs on
	if rng.IntN(8) == 0 {
		s.bend = func(f []byte) []byte { return bend(rng, f) }
	}
	return s
}

// bend changes the frame behind what the source check reads: the pod's address.
func bend(rng *rand.Rand, f []byte) []byte {
	source := [2]int{26, 30}
	if f[12] == 0x86 {
		source = [2]int{22, 54}
	}
	at := 14 + rng.IntN(len(f)-14)
	if at >= source[0] && at < source[1] {
		return f
	}
	switch rng.IntN(4) {
	case 0:
		f = f[:max(at+1, source[1]+4)] // the kernel runs no program on half an IP header
	case 1:
		f = append(f, make([]byte, rng.IntN(30))...)
	default:
		f[at] ^= 1 << rng.IntN(8)
	}
	return f
}
