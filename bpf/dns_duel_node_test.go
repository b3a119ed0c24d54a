//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// A duel is the program and the reference with the same answers.
type duel struct {
	*Datapath
	ref  reference
	pods []Pod // without a scope and with one, of both families
	// outcomes are what the reference has said, of each pod.
	outcomes [2]map[DNSOutcome]uint64
	buf      []byte // what programs write to
}

const duelScope = 7

func newDuel(t *testing.T) *duel {
	t.Helper()
	d := &duel{Datapath: loadAnswers(t), buf: make([]byte, 4096)}
	d.outcomes = [2]map[DNSOutcome]uint64{{}, {}}
	d.ref = reference{entries: map[AnswerKey]referenceEntry{}, names: map[string]NameFlags{}, servers: map[netip.Addr]bool{}}
	for _, s := range addrs(dnsServers) {
		d.ref.servers[s] = true
	}
	d.pods = []Pod{
		{Addrs: addrs(podAddrs), Link: 1, Slot: 1},
		{Addrs: addrs([]string{"10.1.0.6", "fd01::6"}), Link: 1, Slot: 1, Scope: duelScope},
	}
	for _, pod := range d.pods {
		if err := d.Pods.Put(pod); err != nil {
			t.Fatal(err)
		}
	}
	d.ref.zone = AnswerZone{
		Domain: "cluster.local.", NS: "ns.dns.cluster.local.", Mailbox: "hostmaster.cluster.local.", Complete: true,
		TTL: 5, Serial: 1234567890, Refresh: 7200, Retry: 1800, Expire: 86400, MinTTL: 5,
	}
	if err := d.Answers.SetZone(d.ref.zone); err != nil {
		t.Fatal(err)
	}
	d.fill(t)
	d.beat(t)
	return d
}

func (d *duel) beat(t *testing.T) {
	t.Helper()
	if err := d.Answers.Beat(); err != nil {
		t.Fatal(err)
	}
	d.ref.alive = time.Duration(d.Answers.zone.Alive)
}

// put puts an answer on both sides.
func (d *duel) put(t *testing.T, scope uint32, m *dns.Msg, life AnswerLife) {
	t.Helper()
	k := AnswerKey{Name: m.Question[0].Name, Type: m.Question[0].Qtype, Scope: scope}
	m.Response, m.Compress = true, true
	b, err := m.Pack()
	if err == nil {
		err = d.Answers.Put(k, b, life)
	}
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := d.Answers.Lookup(k)
	now, clockErr := Clock()
	if err = errors.Join(err, clockErr); err != nil || !ok {
		t.Fatal(k, ok, err)
	}
	stored, err := StoredAnswer(k, b)
	if err != nil || !cmp.Equal(stored, e.Response) || e.Aged != life.Aged {
		t.Fatalf("%s: put %x, found %x, aged %t, %v", k, stored, e.Response, e.Aged, err)
	}
	entry := referenceEntry{response: b, aged: life.Aged, born: now - e.Age}
	if life.Expires != 0 {
		entry.expires = max(entry.born+life.Expires, 1)
	}
	k.Name = wireOf(k.Name)
	d.ref.entries[k] = entry
}

func (d *duel) name(t *testing.T, name string, flags NameFlags) {
	t.Helper()
	if err := d.Answers.PutName(name, flags); err != nil {
		t.Fatal(err)
	}
	d.ref.names[wireOf(name)] = flags
}

// answer is a response with the records, to a question of the type for the first one's owner.
func answer(t *testing.T, rrtype uint16, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	m.Question = []dns.Question{{Name: m.Answer[0].Header().Name, Qtype: rrtype, Qclass: dns.ClassINET}}
	return m
}

func addressRecords(owner string, n int, v6 bool) (all []string) {
	for i := range n {
		text := owner + " 5 IN A 10.0.0." + strconv.Itoa(i+1)
		if v6 {
			text = owner + " 5 IN AAAA fd00::" + strconv.FormatInt(int64(i+1), 16)
		}
		all = append(all, text)
	}
	return all
}

func (d *duel) fill(t *testing.T) {
	t.Helper()
	const shop = ".shop.svc.cluster.local."
	d.put(t, 0, answer(t, dns.TypeA, "cart"+shop+" 5 IN A 10.96.0.7"), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, addressRecords("few"+shop, 3, false)...), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, addressRecords("many"+shop, 16, false)...), AnswerLife{Aged: true})
	d.put(t, 0, answer(t, dns.TypeAAAA, addressRecords("many"+shop, 16, true)...), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, addressRecords("crowd"+shop, 50, false)...), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, addressRecords(longName, 2, false)...), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, "www.example.com. 300 IN CNAME cdn.example.net.", "cdn.example.net. 2 IN A 192.0.2.1",
		"cdn.example.net. 2 IN A 192.0.2.2"), AnswerLife{Aged: true})
	d.put(t, 0, answer(t, dns.TypeTXT, `txt.example.com. 300 IN TXT "one two"`), AnswerLife{Aged: true, Expires: time.Hour})
	d.put(t, 0, answer(t, dns.TypeA, "old.example.com. 1 IN A 192.0.2.9"), AnswerLife{Aged: true, Expires: time.Nanosecond})
	d.put(t, 0, answer(t, dns.TypePTR, "7.0.96.10.in-addr.arpa. 5 IN PTR cart.shop.svc.cluster.local."), AnswerLife{})
	d.put(t, 0, answer(t, dns.TypeA, ". 5 IN A 192.0.2.3"), AnswerLife{})
	d.put(t, duelScope, answer(t, dns.TypeA, "www.example.com"+shop+" 30 IN CNAME www.example.com.", "www.example.com. 60 IN A 192.0.2.4"),
		AnswerLife{Aged: true, Expires: time.Hour})
	gone := answer(t, dns.TypeAAAA, "none.example.com. 60 IN SOA ns.example.com. me.example.com. 1 2 3 4 60")
	gone.Rcode, gone.Ns, gone.Answer, gone.RecursionAvailable = dns.RcodeNameError, gone.Answer, nil, true
	d.put(t, 0, gone, AnswerLife{Aged: true})
	empty := answer(t, dns.TypeHTTPS, "empty.example.com. 60 IN A 192.0.2.1")
	empty.Answer = nil
	d.put(t, 0, empty, AnswerLife{})
	for name, flags := range map[string]NameFlags{
		"cart" + shop: NameAddresses, "few" + shop: NameAddresses | NameAskBelow, "many" + shop: NameAddresses, "ext" + shop: NameAskAll,
		"crowd" + shop: NameAddresses | NameAskSRV, longName: NameAskAAAA, shop[1:]: 0, "svc.cluster.local.": 0,
		"pod.cluster.local.": 0, "cluster.local.": NameAskA, "none" + shop: 0,
	} {
		d.name(t, name, flags)
	}
}

// questions are what the corpus is made of: the names of fill, and what is near them.
func questions() (all []*dns.Msg) {
	const shop = ".shop.svc.cluster.local."
	names := []string{
		"cart" + shop, "CaRt.Shop.sVC.cluster.LOCAL.", "few" + shop, "many" + shop, "crowd" + shop, "ext" + shop, "none" + shop, longName,
		"pod.few" + shop, "pod.cart" + shop, "a.b.cart" + shop, "x.ext" + shop, "nobody" + shop, "nobody.elsewhere.svc.cluster.local.",
		"_http._tcp.cart" + shop, "x._y.nobody" + shop, "10-1-0-5.shop.pod.cluster.local.", "dns.cluster.local.", "a.b.c.d.cluster.local.",
		shop[1:], "svc.cluster.local.", "cluster.local.", "xcluster.local.", "local.", ".", "www.example.com.", "WWW.example.COM.",
		"www.example.com" + shop, "txt.example.com.", "old.example.com.", "none.example.com.", "empty.example.com.",
		"7.0.96.10.in-addr.arpa.", "8.0.96.10.in-addr.arpa.", `\200\000@\[.cluster.local.`,
	}
	for _, name := range names {
		for _, rrtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR, dns.TypeHTTPS} {
			all = append(all, new(dns.Msg).SetQuestion(name, rrtype))
		}
	}
	for _, rrtype := range []uint16{0, dns.TypeOPT, 127, 128, dns.TypeIXFR, dns.TypeAXFR, dns.TypeANY, 65535} {
		all = append(all, new(dns.Msg).SetQuestion("cart"+shop, rrtype))
	}
	return append(all, variants()...)
}

// variants are questions of one name with all that may be in a header, and with OPT.
func variants() (all []*dns.Msg) {
	vary := func(change func(*dns.Msg)) {
		for _, name := range []string{"cart", "many", "crowd", "nobody"} {
			m := new(dns.Msg).SetQuestion(name+".shop.svc.cluster.local.", dns.TypeA)
			change(m)
			all = append(all, m)
		}
	}
	for _, size := range []uint16{0, 100, 512, 513, 600, 1232, 4096, 65535} {
		vary(func(m *dns.Msg) { m.SetEdns0(size, false) })
	}
	vary(func(m *dns.Msg) { m.SetEdns0(1232, true) })
	vary(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) })
	vary(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetExtendedRcode(16) })
	vary(func(m *dns.Msg) { m.SetEdns0(1232, false); m.SetEdns0(1232, false) })
	cookie := &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}
	alive := &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}
	padding := &dns.EDNS0_PADDING{Padding: make([]byte, 40)}
	subnet := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(10, 0, 0, 0)}
	for _, options := range [][]dns.EDNS0{
		{cookie}, {alive}, {padding}, {cookie, alive, padding}, {cookie, cookie, cookie, cookie}, {cookie, cookie, cookie, cookie, cookie},
		{subnet}, {cookie, subnet}, {&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}, {&dns.EDNS0_LOCAL{Code: 9}}, {&dns.EDNS0_LOCAL{Code: 13}},
	} {
		vary(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().Option = options })
	}
	for _, change := range []func(*dns.Msg){
		func(m *dns.Msg) { m.RecursionDesired = false }, func(m *dns.Msg) { m.AuthenticatedData = true },
		func(m *dns.Msg) { m.CheckingDisabled = true }, func(m *dns.Msg) { m.Zero = true }, func(m *dns.Msg) { m.Truncated = true },
		func(m *dns.Msg) { m.Response = true }, func(m *dns.Msg) { m.Authoritative = true }, func(m *dns.Msg) { m.RecursionAvailable = true },
		func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, func(m *dns.Msg) { m.Rcode = dns.RcodeRefused },
		func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY },
		func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, func(m *dns.Msg) { m.Question = nil },
		func(m *dns.Msg) { m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA}}} },
	} {
		vary(change)
	}
	return all
}
