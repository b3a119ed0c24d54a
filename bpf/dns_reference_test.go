package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// A reference answers as bpf/c/dns.h does, byte by byte, and says it in other words.
type reference struct {
	entries map[AnswerKey]referenceEntry // by names as they are on the wire, folded
	names   map[string]NameFlags
	zone    AnswerZone
	servers map[netip.Addr]bool
	alive   time.Duration
}

type referenceEntry struct {
	response      []byte
	aged          bool
	born, expires time.Duration
}

// A question is what the reference reads of a datagram.
type question struct {
	client, server netip.Addr
	frame          []byte
	headers        int // bytes of the frame before the message
	message        []byte
	open, made     bool // who makes the datagram's sum
	name           string
	labels         []int // where they begin
	rrtype         uint16
	edns           bool
	room           int
}

// notAsked is the outcome of a frame that asks nobody anything.
const notAsked = DNSOutcome(255)

// answer returns the frame that a question is answered with, nil for none. The records that may be in any order are in the one in
// which they were put, from at to end, each of so many bytes.
func (r *reference) answer(frame []byte, scope uint32, now time.Duration) (reply []byte, turns turning, outcome DNSOutcome) {
	q, ok := r.addressed(frame)
	if !ok {
		return nil, turns, notAsked
	}
	if now-r.alive > time.Hour || !q.readDatagram() || !q.readMessage() {
		return nil, turns, DNSPunt
	}
	m, e, outcome := r.find(q, scope, now)
	if outcome > DNSNegative {
		return nil, turns, outcome
	}
	records := bytes.Clone(m.records)
	if e.aged {
		for _, rr := range m.all {
			ttl := int64(binary.BigEndian.Uint32(records[rr.ttlAt:])) - int64(max(0, now-e.born)/time.Second)
			binary.BigEndian.PutUint32(records[rr.ttlAt:], uint32(max(1, ttl)))
		}
	}
	reply, at := q.reply(m, records)
	if len(reply)-q.headers > q.room {
		return nil, turns, DNSPunt
	}
	return reply, newTurning(m, at), outcome
}

// A turning is where in a frame the records are that may come in any order, and how many bytes one has.
type turning struct{ from, to, each int }

func newTurning(m message, at int) (t turning) {
	answers := m.all[:m.count[0]]
	for i, r := range answers {
		n := 1
		for i+n < len(answers) && answers[i+n].owner == r.owner && answers[i+n].rrtype == r.rrtype && answers[i+n].bytes() == r.bytes() {
			n++
		}
		if n > 1 && (t.each == 0 || n > (t.to-t.from)/t.each) && (r.rrtype == typeA || r.rrtype == typeAAAA) {
			t = turning{at + r.at, at + answers[i+n-1].end, r.bytes()}
		}
	}
	return t
}

// same says whether a frame is what the reference has, whichever record comes first.
func (t turning) same(want, got []byte) bool {
	if len(want) != len(got) || t.each == 0 {
		return bytes.Equal(want, got)
	}
	for first := t.from; first < t.to; first += t.each {
		turned := append(append(append(bytes.Clone(want[:t.from]), want[first:t.to]...), want[t.from:first]...), want[t.to:]...)
		if bytes.Equal(turned, got) {
			return true
		}
	}
	return false
}

// addressed reads the addresses: true for what is UDP, plain, and to port 53 of one who is asked for names.
func (r *reference) addressed(frame []byte) (q *question, ok bool) {
	if len(frame) < 14 {
		return nil, false
	}
	q = &question{frame: frame}
	ip, l4 := frame[14:], 0
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		if len(ip) < 28 || ip[0] != 0x45 || ip[9] != 17 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return nil, false
		}
		q.client, q.server, l4 = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), 20
		q.message = ip[20:]
		if binary.BigEndian.Uint16(ip[2:]) != uint16(len(ip)) {
			q.message = nil
		}
	case 0x86dd:
		if len(ip) < 48 || ip[0]>>4 != 6 || ip[6] != 17 {
			return nil, false
		}
		q.client, q.server, l4 = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:])), 40
		q.message = ip[40:]
		if binary.BigEndian.Uint16(ip[4:]) != uint16(len(ip)-40) {
			q.message = nil
		}
	default:
		return nil, false
	}
	q.headers = 14 + l4 + 8
	return q, r.servers[q.server] && binary.BigEndian.Uint16(frame[14+l4+2:]) == 53
}

// readDatagram takes the UDP header off the message.
func (q *question) readDatagram() bool {
	d := q.message
	if len(d) < 8+12+5 || len(d) > 512 || binary.BigEndian.Uint16(d[4:]) != uint16(len(d)) {
		return false
	}
	q.message = d[8:]
	head := onesSum(uint32(onesSum(0, q.client.AsSlice()))+uint32(onesSum(0, q.server.AsSlice()))+17+uint32(len(d)), nil)
	right := onesSum(uint32(head), d) == 0xffff
	switch binary.BigEndian.Uint16(d[6:]) {
	case 0:
		return q.client.Is4()
	case head:
		q.open = true
		return !right
	default:
		q.made = true
		return right
	}
}

// readMessage reads a question that is as plain as most.
func (q *question) readMessage() bool {
	m := q.message
	word := func(at int) uint16 { return binary.BigEndian.Uint16(m[at:]) }
	const plain = ^uint16(0x0400 | 0x0100 | 0x0080 | 0x0020) // AA, RD, RA, AD may be
	if word(2)&plain != 0 || word(4) != 1 || word(6) != 0 || word(8) != 0 || word(10) > 1 {
		return false
	}
	at := 12
	for {
		if at >= len(m) || at-12 > 254 {
			return false
		}
		n := int(m[at])
		if n == 0 {
			break
		}
		if n > 63 {
			return false
		}
		q.labels = append(q.labels, at-12)
		at += 1 + n
	}
	at++
	if at+4 > len(m) {
		return false
	}
	q.name = foldWire(m[12:at])
	q.rrtype = word(at)
	if q.rrtype == 0 || q.rrtype == 41 || q.rrtype >= 128 || word(at+2) != 1 {
		return false
	}
	at, q.room = at+4, 512
	if word(10) == 0 {
		return at == len(m)
	}
	return q.readOPT(m[at:])
}

func foldWire(b []byte) string {
	out := bytes.Clone(b)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] += 32
		}
	}
	return string(out)
}

func (q *question) readOPT(b []byte) bool {
	if len(b) < 11 || !bytes.Equal(b[:3], []byte{0, 0, 41}) || !bytes.Equal(b[5:9], make([]byte, 4)) ||
		int(binary.BigEndian.Uint16(b[9:])) != len(b)-11 {
		return false
	}
	q.edns, q.room = true, min(1232, max(512, int(binary.BigEndian.Uint16(b[3:]))))
	b = b[11:]
	for range 4 {
		if len(b) < 4 {
			break
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if code < 10 || code > 12 || 4+n > len(b) {
			return false
		}
		b = b[4+n:]
	}
	return len(b) == 0
}

// find returns what there is for a question.
func (r *reference) find(q *question, scope uint32, now time.Duration) (m message, e referenceEntry, outcome DNSOutcome) {
	e, ok := r.entries[AnswerKey{q.name, q.rrtype, scope}]
	if !ok {
		e, ok = r.entries[AnswerKey{q.name, q.rrtype, 0}]
	}
	if ok {
		if e.expires != 0 && now >= e.expires {
			return m, e, DNSExpired
		}
		m, err := parseResponse(e.response)
		if err != nil {
			panic(err) // it was put
		}
		if m.flags&15 != 0 || m.count[0] == 0 {
			return m, e, DNSNegative
		}
		return m, e, DNSHit
	}
	return r.deny(q, scope, now)
}

// deny looks whether the name has no such record, or does not exist.
func (r *reference) deny(q *question, scope uint32, now time.Duration) (m message, e referenceEntry, outcome DNSOutcome) {
	domain := wireOf(r.zone.Domain)
	above := len(q.name) - len(domain)
	if r.zone.Domain == "" || above < 0 || q.name[above:] != domain || !q.begins(above) {
		return m, e, DNSMiss
	}
	ask := map[uint16]NameFlags{1: NameAskA, 28: NameAskAAAA, 33: NameAskSRV}[q.rrtype] | NameAskAll
	searched := scope != 0 && (q.rrtype == 1 || q.rrtype == 28)
	flags, ok := r.names[q.name]
	switch {
	case ok && (flags&ask != 0 || searched && flags&NameAddresses == 0):
		return m, e, DNSMiss
	case ok:
		return r.negative(q, 0), e, DNSNegative
	case searched || !r.zone.Complete || now-r.alive > 30*time.Second || above == 0 || !r.absent(q, above):
		return m, e, DNSMiss
	}
	return r.negative(q, 3), e, DNSNegative
}

func (q *question) begins(at int) bool {
	return slices.Contains(q.labels, at) || at == len(q.name)-1
}

// absent says whether a name without an entry does not exist.
func (r *reference) absent(q *question, above int) bool {
	var own []int
	for _, at := range q.labels {
		if at < above {
			own = append(own, at)
			if q.name[at+1] == '_' {
				return false
			}
		}
	}
	n := len(own)
	switch q.name[own[n-1]:above] {
	case "\x03pod":
		return false
	case "\x03svc":
		if n >= 4 {
			flags, ok := r.names[q.name[own[n-3]:]]
			return !ok || flags&(NameAskAll|NameAskBelow) == 0
		}
	}
	return true
}

func wireOf(name string) string {
	wire, err := packName(name)
	if err != nil {
		panic(err)
	}
	return string(wire)
}

// negative is a response with the zone's SOA record.
func (r *reference) negative(q *question, rcode uint16) (m message) {
	z, domain := r.zone, wireOf(r.zone.Domain)
	pointer := binary.BigEndian.AppendUint16(nil, 0xc000|uint16(12+len(q.name)-len(domain)))
	name := func(text string) []byte {
		wire := wireOf(text)
		return append([]byte(wire[:len(wire)-len(domain)]), pointer...)
	}
	data := append(name(z.NS), name(z.Mailbox)...)
	for _, n := range []uint32{z.Serial, z.Refresh, z.Retry, z.Expire, z.MinTTL} {
		data = binary.BigEndian.AppendUint32(data, n)
	}
	m.records = append(bytes.Clone(pointer), 0, 6, 0, 1)
	m.records = binary.BigEndian.AppendUint32(m.records, z.TTL)
	m.records = append(binary.BigEndian.AppendUint16(m.records, uint16(len(data))), data...)
	m.flags, m.count = 0x0400|rcode, [3]uint8{0, 1, 0}
	return m
}

// reply makes the frame, and says where in it the records are.
func (q *question) reply(m message, records []byte) (frame []byte, at int) {
	b := bytes.Clone(q.message[:12+len(q.name)+4])
	binary.BigEndian.PutUint16(b[2:], 0x8000|m.flags&0x048f|binary.BigEndian.Uint16(b[2:])&0x0100)
	for i, n := range m.count {
		binary.BigEndian.PutUint16(b[6+2*i:], uint16(n))
	}
	at = q.headers + len(b)
	b = append(b, records...)
	if q.edns {
		binary.BigEndian.PutUint16(b[10:], uint16(m.count[2])+1)
		b = append(b, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0)
	}
	f := q.frame
	frame = append(append(append(frame, f[6:12]...), f[:6]...), f[12:14]...)
	l4 := append([]byte{0, 53}, f[q.headers-8], f[q.headers-7])
	l4 = append(binary.BigEndian.AppendUint16(l4, uint16(8+len(b))), 0, 0)
	head := uint32(onesSum(0, q.client.AsSlice())) + uint32(onesSum(0, q.server.AsSlice())) + 17 + uint32(8+len(b))
	l4 = append(l4, b...)
	switch {
	case q.open:
		binary.BigEndian.PutUint16(l4[6:], onesSum(head, nil))
	case q.made && q.client.Is6():
		sum := ^onesSum(head, l4)
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(l4[6:], sum)
	}
	return append(append(frame, q.network(f[14:], len(l4))...), l4...), at
}

func (q *question) network(was []byte, n int) (ip []byte) {
	if q.client.Is6() {
		ip = binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(n))
		ip = append(ip, 17, 64)
		return append(append(ip, q.server.AsSlice()...), q.client.AsSlice()...)
	}
	ip = binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+n))
	ip = append(append(ip, was[4:8]...), 64, 17, 0, 0)
	ip = append(append(ip, q.server.AsSlice()...), q.client.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(0, ip))
	return ip
}
