//go:build node

package bpf

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAnswersChangeUnderReaders replaces and deletes answers while they are asked for: each reply is one of those that were put.
func TestAnswersChangeUnderReaders(t *testing.T) {
	d := newDuel(t)
	name := func(i int) string { return fmt.Sprintf("n%d.example.", i) }
	// What a reply to the name and type must be made of: the elements of one name go to others.
	record := func(i int, rrtype uint16) string {
		if rrtype == dns.TypeA {
			return fmt.Sprintf("%s 5 IN A 192.0.2.%d", name(i), i)
		}
		return fmt.Sprintf("%s 5 IN AAAA 2001:db8::%d", name(i), i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			n, rrtype := i%3+1, []uint16{dns.TypeA, dns.TypeAAAA}[i/3%2]
			k := AnswerKey{Name: name(n), Type: rrtype}
			m := answerTo(k.Name, rrtype, slices.Repeat([]string{record(n, rrtype)}, 1+i/6%3)...)
			b, err := m.Pack()
			if err == nil {
				err = d.Answers.Put(k, b, AnswerLife{})
			}
			if err == nil && i%2 == 0 {
				err = d.Answers.Delete(AnswerKey{Name: name((n+1)%3 + 1), Type: rrtype})
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	hits := 0
	for i := range 20_000 {
		n, rrtype := i%3+1, []uint16{dns.TypeA, dns.TypeAAAA}[i/3%2]
		m := d.ask(t, 0, name(n), rrtype)
		if m == nil {
			continue
		}
		hits++
		for _, rr := range m.Answer {
			if got := strings.ReplaceAll(rr.String(), "\t", " "); got != record(n, rrtype) {
				t.Fatalf("asked for %s type %d, got %s", name(n), rrtype, got)
			}
		}
	}
	cancel()
	writer.Wait()
	if hits == 0 {
		t.Error("nothing was answered")
	}
}

// TestElementsOfOthers: the kernel may give an element of the map to another key while a program reads it. What does not say that it
// is of the name, the type and the scope, or has two stamps, is not an answer. An element that is older has smaller TTLs.
func TestElementsOfOthers(t *testing.T) {
	d := newDuel(t)
	const name = "www.example.com."
	key := d.Answers.key([]byte(wireOf(name)), dns.TypeA, 0)
	var good sockSmallAnswer
	if err := d.objs.DnsAnswers.Lookup(key, &good); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		change func(*sockSmallAnswer)
		ttl    uint32 // of the first record; 0: no answer
	}{
		"as it is":           {func(*sockSmallAnswer) {}, 300},
		"a minute older":     {func(e *sockSmallAnswer) { e.Head.Born -= uint64(time.Minute + time.Second/2) }, 240},
		"an hour older":      {func(e *sockSmallAnswer) { e.Head.Born -= uint64(time.Hour) }, 1},
		"of another name":    {func(e *sockSmallAnswer) { e.Data[0] ^= 1 << 8 }, 0},
		"of a longer name":   {func(e *sockSmallAnswer) { e.Head.NameBytes++ }, 0},
		"of another type":    {func(e *sockSmallAnswer) { e.Head.Type = dns.TypeAAAA }, 0},
		"of another scope":   {func(e *sockSmallAnswer) { e.Head.Scope = 5 }, 0},
		"begun to be others": {func(e *sockSmallAnswer) { e.Head.Stamp++ }, 0},
	} {
		e := good
		tt.change(&e)
		if err := d.objs.DnsAnswers.Put(key, &e); err != nil {
			t.Fatal(err)
		}
		got := uint32(0)
		if m := d.ask(t, 0, name, dns.TypeA); m != nil {
			got = m.Answer[0].Header().Ttl
		}
		if got != tt.ttl && (tt.ttl <= 1 || got+1 != tt.ttl) { // a second may have passed
			t.Errorf("%s: TTL %d, want %d", what, got, tt.ttl)
		}
	}
}

// TestChangedIsNotAbsent: an element that changes hands while it is read, which all of these look like, does not say that there is no
// such name or record. The question goes on.
func TestChangedIsNotAbsent(t *testing.T) {
	d := newDuel(t)
	const shop = ".shop.svc.cluster.local."
	marker := func(e *sockSmallAnswer) {
		stamp := e.Stamp
		*e = sockSmallAnswer{Stamp: stamp, Head: sockDnsAnswer{
			Stamp: stamp, Type: e.Head.Type, Scope: e.Head.Scope, Flags: uint8(packetAnswerFlagsANSWER_LARGE),
		}}
	}
	for _, q := range []struct {
		changed string
		entry   uint16 // its type; 0: what is known of the name
		pod     int
		asked   string
		denied  string // the status, if the element were not there at all
	}{
		{"cart" + shop, dns.TypeA, 0, "cart" + shop, "NOERROR"},
		{"cart" + shop, 0, 0, "cart" + shop, "NXDOMAIN"},
		{"few" + shop, 0, 0, "pod.few" + shop, "NXDOMAIN"},
		{"cart" + shop, dns.TypeA, 1, "cart" + shop, "NOERROR"},
	} {
		rrtype := max(q.entry, dns.TypeA)
		if q.entry == 0 {
			rrtype = dns.TypeTXT
		}
		key := d.Answers.key([]byte(wireOf(q.changed)), q.entry, 0)
		var good sockSmallAnswer
		if err := d.objs.DnsAnswers.Lookup(key, &good); err != nil {
			t.Fatal(err)
		}
		for what, change := range map[string]func(*sockSmallAnswer){
			"of another name": func(e *sockSmallAnswer) { e.Data[0] ^= 1 << 8 }, "of a longer name": func(e *sockSmallAnswer) { e.Head.NameBytes++ },
			"of another type": func(e *sockSmallAnswer) { e.Head.Type = dns.TypeMX }, "of another scope": func(e *sockSmallAnswer) { e.Head.Scope = 5 },
			"a large one's, which is not there": marker,
		} {
			e := good
			change(&e)
			if err := d.objs.DnsAnswers.Put(key, &e); err != nil {
				t.Fatal(err)
			}
			if m := d.ask(t, q.pod, q.asked, rrtype); m != nil {
				t.Errorf("%s type %d, while %s type %d is %s: %v, want no answer", q.asked, rrtype, q.changed, q.entry, what, m)
			}
		}
		if err := d.objs.DnsAnswers.Delete(key); err != nil {
			t.Fatal(err)
		}
		if m := d.ask(t, q.pod, q.asked, rrtype); m == nil || len(m.Answer) > 0 || dns.RcodeToString[m.Rcode] != q.denied {
			t.Errorf("%s type %d without %s type %d: %v, want %s", q.asked, rrtype, q.changed, q.entry, m, q.denied)
		}
		if err := d.objs.DnsAnswers.Put(key, &good); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplacedIsNotAbsent replaces a small answer by a large one and back while it is asked for: it never seems to be gone.
func TestReplacedIsNotAbsent(t *testing.T) {
	d := newDuel(t)
	const name = "cart.shop.svc.cluster.local."
	var responses [2][]byte
	for i, n := range []int{1, 40} {
		responses[i] = packed(t, addressRecords(name, n, false)...)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			err := errors.Join(d.Answers.Put(AnswerKey{Name: name, Type: dns.TypeA}, responses[i%2], AnswerLife{}), d.Answers.PutName(name, NameAddresses))
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	answered := 0
	for range 5_000 {
		if m := d.ask(t, 0, name, dns.TypeA); m != nil {
			if len(m.Answer) == 0 && !m.Truncated {
				t.Errorf("denied: %v", m)
				break
			}
			answered++
		}
	}
	cancel()
	writer.Wait()
	if answered == 0 {
		t.Error("nothing was answered")
	}
}

// TestPodsElementOfAnother: an element of pod_addresses that is another pod's by now does not say whose scope and counts a packet has.
func TestPodsElementOfAnother(t *testing.T) {
	d := newDuel(t)
	for i, addr := range d.pods[1].Addrs {
		key := sockAddress{Addr: words(addr)}
		var good sockPodAddress
		if err := d.objs.PodAddresses.Lookup(key, &good); err != nil {
			t.Fatal(err)
		}
		query, err := new(dns.Msg).SetQuestion("cart.shop.svc.cluster.local.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		for echo, answered := range map[uint32]bool{good.Echo: true, good.Echo ^ 1: false} {
			e := good
			e.Echo = echo
			if err := d.objs.PodAddresses.Put(key, &e); err != nil {
				t.Fatal(err)
			}
			if reply, err := d.Ask(addr, addrs(dnsServers)[i], query); err != nil || (reply != nil) != answered {
				t.Errorf("%s, echo %x of %x: %x, %v, want an answer: %t", addr, echo, good.Echo, reply, err, answered)
			}
		}
	}
}
