package nodelocaldns

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

func parseRRs(t *testing.T, lines ...string) []dns.RR {
	t.Helper()
	var rrs []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

func TestExternalQuestion(t *testing.T) {
	t.Parallel()
	with := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg).SetQuestion("WWW.Example.com.", dns.TypeA)
		change(m)
		return m
	}
	option := func(o dns.EDNS0) *dns.Msg {
		return with(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, o)
		})
	}
	for name, tc := range map[string]struct {
		msg *dns.Msg
		ok  bool
	}{
		"plain":      {with(func(*dns.Msg) {}), true},
		"AD":         {with(func(m *dns.Msg) { m.AuthenticatedData = true }), true},
		"EDNS":       {with(func(m *dns.Msg) { m.SetEdns0(4096, false) }), true},
		"cookie":     {option(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}), true},
		"DO":         {with(func(m *dns.Msg) { m.SetEdns0(1232, true) }), false},
		"CD":         {with(func(m *dns.Msg) { m.CheckingDisabled = true }), false},
		"ECS":        {option(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}}), false},
		"NSID":       {option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID}), false},
		"version 1":  {with(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), false},
		"class":      {with(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), false},
		"ANY":        {with(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }), false},
		"transfer":   {with(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), false},
		"notify":     {with(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), false},
		"response":   {with(func(m *dns.Msg) { m.Response = true }), false},
		"two":        {with(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), false},
		"a reverse":  {new(dns.Msg).SetQuestion("7.0.96.10.in-addr.arpa.", dns.TypePTR), false},
		"an inverse": {new(dns.Msg).SetQuestion("8.b.d.0.1.0.0.2.IP6.ARPA.", dns.TypePTR), false},
	} {
		key, ok := ExternalQuestion(tc.msg)
		if ok != tc.ok || ok && key != (bpf.AnswerKey{Name: "www.example.com.", Type: dns.TypeA}) {
			t.Errorf("%s: %v, %t", name, key, ok)
		}
	}
}

func TestWhatMayBePublished(t *testing.T) {
	t.Parallel()
	const (
		soa   = "example.com. 300 IN SOA ns.example.com. root.example.com. 1 2 3 4 60"
		alias = "www.example.com. 30 IN CNAME web.example.net."
		addr  = "web.example.net. 20 IN A 192.0.2.1"
	)
	type reply struct {
		rcode  int
		answer []string
		ns     []string
		change func(*ExternalReply)
	}
	for name, tc := range map[string]struct {
		reply
		want     Unfit
		life     time.Duration
		negative bool
	}{
		"positive":       {reply: reply{answer: []string{"www.example.com. 30 IN A 192.0.2.1"}}, life: 30 * time.Second},
		"smallest":       {reply: reply{answer: []string{alias, addr}}, life: 20 * time.Second},
		"authority ends": {reply: reply{answer: []string{alias, addr}, ns: []string{"example.net. 9 IN NS ns.example.net."}}, life: 9 * time.Second},
		"NXDOMAIN":       {reply: reply{rcode: dns.RcodeNameError, ns: []string{soa}}, life: time.Minute, negative: true},
		"NODATA":         {reply: reply{ns: []string{soa}}, life: time.Minute, negative: true},
		"alias, NODATA":  {reply: reply{answer: []string{alias}, ns: []string{soa}}, life: 30 * time.Second, negative: true},
		"alias, no name": {reply: reply{rcode: dns.RcodeNameError, answer: []string{alias}, ns: []string{soa}}, life: 30 * time.Second, negative: true},
		"limit": {reply: reply{answer: []string{alias, addr}, change: func(r *ExternalReply) { r.Limit = 5 * time.Second }},
			life: 5 * time.Second},
		"stale": {reply: reply{answer: []string{"www.example.com. 0 IN A 192.0.2.1"}, change: func(r *ExternalReply) { r.Stale = true }},
			life: staleTTL},
		"stale NXDOMAIN":  {reply: reply{rcode: dns.RcodeNameError, ns: []string{soa}, change: func(r *ExternalReply) { r.Stale = true }}, want: UnfitStale},
		"SERVFAIL":        {reply: reply{rcode: dns.RcodeServerFailure}, want: UnfitRcode},
		"REFUSED":         {reply: reply{rcode: dns.RcodeRefused, ns: []string{soa}}, want: UnfitRcode},
		"truncated":       {reply: reply{answer: []string{alias, addr}, change: func(r *ExternalReply) { r.Msg.Truncated = true }}, want: UnfitCut},
		"no SOA":          {reply: reply{rcode: dns.RcodeNameError}, want: UnfitNegative},
		"referral":        {reply: reply{ns: []string{"example.com. 30 IN NS ns.example.com."}}, want: UnfitNegative},
		"dangling":        {reply: reply{answer: []string{alias}}, want: UnfitNegative},
		"TTL 0":           {reply: reply{answer: []string{"www.example.com. 0 IN A 192.0.2.1"}}, want: UnfitTTL},
		"limit below 1 s": {reply: reply{answer: []string{alias, addr}, change: func(r *ExternalReply) { r.Limit = 1 }}, want: UnfitTTL},
		"other question": {reply: reply{answer: []string{addr}, change: func(r *ExternalReply) { r.Msg.Question[0].Name = "web.example.net." }},
			want: UnfitFormat},
		"other type": {reply: reply{answer: []string{alias, addr}, change: func(r *ExternalReply) { r.Msg.Question[0].Qtype = dns.TypeAAAA }},
			want: UnfitFormat},
	} {
		m := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
		m.Response, m.Rcode, m.Answer, m.Ns = true, tc.rcode, parseRRs(t, tc.answer...), parseRRs(t, tc.ns...)
		m.SetEdns0(1232, false)
		r := ExternalReply{Msg: m}
		if tc.change != nil {
			tc.change(&r)
		}
		a, unfit := newExternalAnswer(bpf.AnswerKey{Name: "www.example.com.", Type: dns.TypeA}, r)
		if unfit != tc.want || unfit == Fits && (a.life != tc.life || a.negative != tc.negative) {
			t.Errorf("%s: %v for %v, negative %t; want %v for %v", name, unfit, a.life, a.negative, tc.want, tc.life)
		}
	}
}

func TestPublishedAnswer(t *testing.T) {
	t.Parallel()
	m := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
	m.Id, m.Response, m.Authoritative, m.AuthenticatedData, m.RecursionAvailable = 7, true, true, true, true
	m.Answer = parseRRs(t, "WWW.example.com. 300 IN CNAME Web.example.net.", "Web.example.net. 20 IN A 192.0.2.1")
	m.Ns = parseRRs(t, "example.net. 300 IN NS ns.example.net.")
	m.SetEdns0(1232, false)
	before := m.String()
	key := bpf.AnswerKey{Name: "www.example.com.", Type: dns.TypeA}
	a, unfit := newExternalAnswer(key, ExternalReply{Msg: m})
	whole, short, err := a.pack(key)
	if unfit != Fits || err != nil {
		t.Fatal(unfit, err)
	}
	if m.String() != before {
		t.Errorf("the client's answer became\n%v", m)
	}
	got := new(dns.Msg)
	if err := got.Unpack(whole); err != nil {
		t.Fatal(err)
	}
	if got.Id != 0 || !got.Authoritative || !got.RecursionAvailable || got.AuthenticatedData || got.IsEdns0() != nil || len(got.Ns) != 1 {
		t.Errorf("got\n%v", got)
	}
	if got.Answer[0].Header().Name != "www.example.com." || got.Answer[0].Header().Ttl != 20 || got.Answer[1].Header().Name != "Web.example.net." {
		t.Errorf("records %v", got.Answer)
	}
	if at := 12 + len("www.example.com") + 2 + 4; whole[at] != 0xc0 || whole[at+1] != 12 {
		t.Errorf("the owner is % x, not a pointer to the question", whole[at:at+2])
	}
	if err := got.Unpack(short); err != nil || len(got.Answer) != 2 || len(got.Ns) != 0 {
		t.Errorf("the short one is %v\n%v", err, got)
	}
	if names := otherNames(key.Name, m); len(names) != 1 || names[0] != "web.example.net." {
		t.Errorf("made of %q", names)
	}
	a, _ = newExternalAnswer(key, ExternalReply{Msg: m, Stale: true})
	whole, _, err = a.pack(key)
	if err != nil || got.Unpack(whole) != nil || got.Answer[1].Header().Ttl != 30 {
		t.Errorf("a stale one is %v", got)
	}
}
