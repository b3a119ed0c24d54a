package nodelocaldns_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// hostile are packets that make trouble for who reads them without care, and good ones to be bent.
func hostile(tb testing.TB) [][]byte {
	tb.Helper()
	var all [][]byte
	for _, m := range questions() {
		text, err := m.Pack()
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, text)
	}
	good := all[0]
	for n := range len(good) {
		all = append(all, good[:n])
	}
	// Counts that do not hold: no question, two, more than there can be; records that are not there.
	for _, at := range []int{4, 6, 8, 10} {
		for _, n := range []uint16{0, 2, 0x7fff, 0xffff} {
			p := slices.Clone(good)
			binary.BigEndian.PutUint16(p[at:], n)
			all = append(all, p)
		}
	}
	// Every opcode, with each of the other bits of the header.
	for flags := range 256 {
		p := slices.Clone(good)
		p[2], p[3] = byte(flags), byte(flags*7)
		all = append(all, p)
	}
	all = append(all, bytes.Repeat([]byte{0xff}, 512), make([]byte, 512), append(slices.Clone(good), make([]byte, 60_000)...))
	for _, name := range badNames() {
		p := append(slices.Clone(good[:12]), name...)
		all = append(all, append(p, 0, 1, 0, 1))
	}
	for _, tail := range badRecords() {
		p := append(slices.Clone(good), tail...)
		p[11] = 1
		all = append(all, p)
	}
	return all
}

// questions are well-formed: of names that are answered and that are not, with and without what clients may add.
func questions() []*dns.Msg {
	var all []*dns.Msg
	for _, name := range []string{
		cartName, "CaRt.shop.SVC.cluster.local.", "www.example.com.", "www.example.com.shop.svc.cluster.local.", "ext.shop.svc.cluster.local.",
		".", "cluster.local.", "_._.cart.shop.svc.cluster.local.", "10-0-0-1.shop.pod.cluster.local.", "7.0.96.10.in-addr.arpa.",
		"in-addr.arpa.", "f.ip6.arpa.", "\\000\\255.example.com.", "a\\.b.cluster.local.", "dns-version.cluster.local.",
	} {
		for _, qtype := range []uint16{
			dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSRV, dns.TypePTR, dns.TypeDS, dns.TypeOPT, dns.TypeAXFR, dns.TypeIXFR, dns.TypeTSIG, 0, 0xffff,
		} {
			all = append(all, new(dns.Msg).SetQuestion(name, qtype))
		}
	}
	for _, m := range all[:4] {
		with := m.Copy()
		with.SetEdns0(4096, true)
		o := with.IsEdns0()
		o.Option = []dns.EDNS0{
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_PADDING{Padding: make([]byte, 300)},
			&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}},
		}
		version := m.Copy()
		version.SetEdns0(0, false)
		version.IsEdns0().SetVersion(9)
		chaos := m.Copy()
		chaos.Question[0].Qclass = dns.ClassCHAOS
		signed := m.Copy()
		signed.SetTsig("key.", dns.HmacSHA256, 300, 0)
		two := m.Copy()
		two.Extra = []dns.RR{with.Extra[0], with.Extra[0]}
		all = append(all, with, version, chaos, signed, two)
	}
	return all
}

// badNames are wire names that do not end, lead nowhere or are too long.
func badNames() [][]byte {
	label := append([]byte{63}, bytes.Repeat([]byte{'a'}, 63)...)
	return [][]byte{
		{0xc0, 12}, {0xc0, 14, 0xc0, 12}, {0xc0, 0xff}, {0xff, 0xff}, {1, 'a', 0xc0, 12}, {0x40, 'a', 0}, {0x80, 'a', 0}, {5, 'a'},
		append(bytes.Repeat(label, 4), 0), append(bytes.Repeat(label, 100), 0), append(bytes.Repeat([]byte{1, 'a'}, 127), 0),
		append(bytes.Repeat([]byte{1, '.'}, 120), 0), append(bytes.Repeat([]byte{1, 'a'}, 200), 0), append(bytes.Repeat([]byte{63}, 64), 0),
	}
}

// badRecords stand behind a good question as its only additional record.
func badRecords() [][]byte {
	opt := []byte{0, 0, 41, 16, 0, 0, 0, 0, 0}
	tail := func(head []byte, more ...byte) []byte { return append(slices.Clone(head), more...) }
	return [][]byte{
		nil, opt, tail(opt, 0), tail(opt, 0, 4, 0, 8, 0, 4), tail(opt, 0xff, 0xff), tail(opt, 0, 4, 0, 8, 0xff, 0xff), tail(opt, 0, 6, 0, 8, 0, 2, 0, 9),
		tail(opt, 0, 7, 0, 10, 0, 3, 'x', 'y', 'z'), tail(opt, 0, 12, 0, 8, 0, 8, 0, 9, 200, 200, 1, 2, 3, 4), {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1},
		{0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 2, 0, 0}, {0, 0, 24, 0, 255, 0, 0, 0, 0, 0, 0}, {0xc0, 29, 0, 41}, {0, 0, 64, 0, 1, 0, 0, 0, 0, 0, 3, 0, 1, 0xc0},
	}
}

// bend makes another packet of one of the corpus: its bytes, its length, or two packets in one.
func bend(rng *rand.Rand, corpus [][]byte) []byte {
	p := slices.Clone(corpus[rng.IntN(len(corpus))])
	for range rng.IntN(6) {
		if len(p) == 0 {
			break
		}
		switch at := rng.IntN(len(p)); rng.IntN(8) {
		case 0:
			p[at] = byte(rng.Uint32())
		case 1:
			p[at] ^= 1 << rng.IntN(8)
		case 2:
			p[at] = []byte{0, 1, 63, 64, 0xc0, 0xff}[rng.IntN(6)]
		case 3:
			p = p[:at]
		case 4:
			p = slices.Insert(p, at, byte(rng.Uint32()))
		case 5:
			p = slices.Delete(p, at, min(len(p), at+1+rng.IntN(4)))
		case 6:
			p = append(p, corpus[rng.IntN(len(corpus))]...)
		case 7:
			p = append(p, make([]byte, rng.IntN(2000))...)
		}
	}
	return p[:min(len(p), 60_000)]
}
