package upstream

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// udpSize is the EDNS buffer size we announce: no fragments on the way (DNS flag day 2020).
	udpSize = 1232
	optSize = 11 // an OPT without options
)

// Bits of the third and the fourth byte of a header.
const (
	bitQR = 1 << 7
	bitTC = 1 << 1
	bitRD = 1 << 0
	bitAD = 1 << 5
	bitCD = 1 << 4
)

// A key is what makes two questions the same for a server: nothing else of a client's message is passed on.
type key struct {
	name          string // on the wire, lower case
	qtype, qclass uint16
	flags         uint8
}

// Flags of a key, in the order of newQuery.
const (
	flagRD = 1 << iota
	flagAD
	flagCD
	flagDO
)

// A query is a question on the wire. It is immutable: ids are put into copies.
type query struct {
	key
	wire  []byte // id 0, with an OPT at the end
	asked int    // where the question ends
}

// newQuery makes the query for a client's message, which has one question at least. EDNS options end here: they are
// between two hops (RFC 6891, 6.2.6; RFC 7873), or as client subnets would make answers differ that are cached as one.
func newQuery(m *dns.Msg) (*query, error) {
	q := m.Question[0]
	k := key{qtype: q.Qtype, qclass: q.Qclass}
	opt := m.IsEdns0()
	for flag, set := range [...]bool{m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled, opt != nil && opt.Do()} {
		if set {
			k.flags |= flagRD << flag
		}
	}
	return pack(q.Name, k)
}

// pack completes the key by the name and writes the message.
func pack(name string, k key) (*query, error) {
	wire := make([]byte, headerSize+255+4+optSize)
	end, err := dns.PackDomainName(name, wire, headerSize, nil, false)
	if err != nil {
		return nil, fmt.Errorf("write the question %q: %w", name, err)
	}
	if k.flags&flagRD != 0 {
		wire[2] |= bitRD
	}
	if k.flags&flagAD != 0 {
		wire[3] |= bitAD
	}
	if k.flags&flagCD != 0 {
		wire[3] |= bitCD
	}
	wire[5], wire[11] = 1, 1 // one question, one record in the additional section
	asked := binary.BigEndian.AppendUint16(wire[:end], k.qtype)
	asked = binary.BigEndian.AppendUint16(asked, k.qclass)
	opt := append(asked, 0, 0, byte(dns.TypeOPT), byte(udpSize>>8), byte(udpSize&0xff), 0, 0, 0, 0, 0, 0)
	if k.flags&flagDO != 0 {
		opt[len(asked)+7] = 0x80
	}
	k.name = fold(wire[headerSize:end])
	return &query{key: k, wire: opt, asked: len(asked)}, nil
}

// message returns a copy under an id; plain is without EDNS.
func (q *query) message(into []byte, id uint16, plain bool) []byte {
	start := len(into)
	if plain {
		into = append(into, q.wire[:q.asked]...)
		into[start+11] = 0
	} else {
		into = append(into, q.wire...)
	}
	binary.BigEndian.PutUint16(into[start:], id)
	return into
}

// A verdict is on bytes that came where a reply is expected.
type verdict uint8

const (
	isReply verdict = iota
	isBare          // an error of the server that does not repeat the question
	isOther         // not the reply to this query
)

// judge says whether the bytes are the reply to the query with that id. It reads header and question only.
func (q *query) judge(id uint16, reply []byte) verdict {
	if len(reply) < headerSize || binary.BigEndian.Uint16(reply) != id || reply[2]&bitQR == 0 || reply[2]>>3&15 != dns.OpcodeQuery {
		return isOther
	}
	switch binary.BigEndian.Uint16(reply[4:]) {
	case 0:
		switch rcode(reply) {
		case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			return isBare
		}
		return isOther
	case 1:
		if len(reply) >= q.asked && q.asksFor(reply[headerSize:q.asked]) {
			return isReply
		}
	}
	return isOther
}

// asksFor compares names without case (RFC 4343); lengths of labels are no letters.
func (q *query) asksFor(question []byte) bool {
	name := len(question) - 4
	for i := range name {
		if lower(question[i]) != q.name[i] {
			return false
		}
	}
	return binary.BigEndian.Uint16(question[name:]) == q.qtype && binary.BigEndian.Uint16(question[name+2:]) == q.qclass
}

// rcode is that of a header; the reply has one.
func rcode(reply []byte) int { return int(reply[3] & 15) }

func truncated(reply []byte) bool { return reply[2]&bitTC != 0 }

// refusesEDNS is whether the server may not know EDNS (RFC 6891, 7): it fails a query for its form, and has no OPT.
func refusesEDNS(reply []byte) bool {
	code := rcode(reply)
	return (code == dns.RcodeFormatError || code == dns.RcodeNotImplemented) && binary.BigEndian.Uint16(reply[10:]) == 0
}

var errCutOff = errors.New("the reply lacks records that its header counts")

// complete is whether a message has the records that its header counts: the library reads what is there.
func complete(m *dns.Msg, wire []byte) bool {
	return int(binary.BigEndian.Uint16(wire[6:])) == len(m.Answer) && int(binary.BigEndian.Uint16(wire[8:])) == len(m.Ns) &&
		int(binary.BigEndian.Uint16(wire[10:])) == len(m.Extra)
}

func fold(name []byte) string {
	folded := make([]byte, len(name))
	for i, b := range name {
		folded[i] = lower(b)
	}
	return string(folded)
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// newID returns an id that nobody can guess (RFC 5452, 9.2).
func newID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint16(b[:])
}
