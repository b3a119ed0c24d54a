package bpf

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	headerBytes    = 12 // of a DNS message
	typeBytes      = 4  // type and class of a question
	recordBytes    = 10 // of a record, without owner and data
	maxNameBytes   = 255
	maxLabelBytes  = 63
	maxAgedRecords = 16

	typeA, typeAAAA, typeOPT = 1, 28, 41
	firstMetaType            = 128
	classIN                  = 1

	flagQR, flagAA, flagTC, flagRA, maskRcode = 0x8000, 0x0400, 0x0200, 0x0080, 0x000f
)

// String is for errors and logs.
func (k AnswerKey) String() string {
	if k.Scope == 0 {
		return fmt.Sprintf("%s type %d", k.Name, k.Type)
	}
	return fmt.Sprintf("%s type %d scope %d", k.Name, k.Type, k.Scope)
}

// An entry is an answer on its way into a map.
type entry struct {
	name    []byte // on the wire, folded
	head    sockDnsAnswer
	records []byte
}

// AnswerFits says whether Put would take the response: nil, or what it would say of it, which is ErrTooLarge for a response that
// is well formed.
func AnswerFits(k AnswerKey, response []byte) error {
	_, err := StoredAnswer(k, response)
	return err
}

// AnswerIsSmall says whether a response takes the least room there is, 256 bytes of the kernel's memory, and not five times that
// and one of few places.
func AnswerIsSmall(k AnswerKey, response []byte) bool {
	e, err := newEntry(k, response, false)
	return err == nil && e.isSmall()
}

// StoredAnswer returns a response in the form in which Put keeps it: its id is 0, its question in lower case, its flags are QR, AA,
// RA and the status, and it has no OPT.
func StoredAnswer(k AnswerKey, response []byte) ([]byte, error) {
	e, err := newEntry(k, response, false)
	if err != nil {
		return nil, fmt.Errorf("answer %s: %w", k, err)
	}
	return e.response(), nil
}

func newEntry(k AnswerKey, response []byte, aged bool) (*entry, error) {
	name, err := packName(k.Name)
	if err != nil {
		return nil, err
	}
	if k.Type == 0 || k.Type == typeOPT || k.Type >= firstMetaType {
		return nil, fmt.Errorf("%w: questions of type %d are not answered by programs", ErrTooLarge, k.Type)
	}
	m, err := parseResponse(response)
	if err != nil {
		return nil, err
	}
	if string(m.name) != string(name) || m.rrtype != k.Type {
		return nil, fmt.Errorf("the response is to %s type %d", nameText(m.name), m.rrtype)
	}
	e := &entry{name: name, records: m.records}
	e.head.Type, e.head.Scope = k.Type, k.Scope
	e.head.Header = swap16(m.flags & (flagAA | flagRA | maskRcode))
	e.head.Count = m.count
	if (len(name)+7)/8*8+len(m.records) > largeAnswerBytes {
		return nil, fmt.Errorf("%w: the name has %d bytes and the records have %d, of %d", ErrTooLarge, len(name), len(m.records), largeAnswerBytes)
	}
	e.rotate(m.all)
	if aged {
		err = e.age(m.all)
	}
	return e, err
}

// rotate finds the longest run of addresses that may come in any order.
func (e *entry) rotate(all []record) {
	answers := all[:e.head.Count[0]]
	for first := 0; first < len(answers); {
		r, n := answers[first], 1
		for first+n < len(answers) && answers[first+n].swaps(r) {
			n++
		}
		if n > max(1, int(e.head.RotateCount)) && (r.rrtype == typeA || r.rrtype == typeAAAA) && r.bytes() < 256 {
			e.head.RotateAt, e.head.RotateBytes, e.head.RotateCount = uint16(r.at), uint8(r.bytes()), uint8(n)
		}
		first += n
	}
}

// age notes where the TTLs are.
func (e *entry) age(all []record) error {
	if len(all) > maxAgedRecords {
		return fmt.Errorf("%w: %d records that age, of %d", ErrTooLarge, len(all), maxAgedRecords)
	}
	e.head.Flags |= uint8(packetAnswerFlagsANSWER_AGED)
	e.head.Ttls = uint8(len(all))
	last := 0
	for i, r := range all {
		if r.ttlAt-last > 255 {
			return fmt.Errorf("%w: a record that ages is longer than 255 bytes", ErrTooLarge)
		}
		e.head.TtlStep[i] = uint8(r.ttlAt - last)
		last = r.ttlAt
	}
	return nil
}

const (
	smallAnswerBytes = 8 * len(sockSmallAnswer{}.Data)
	largeAnswerBytes = 8 * len(sockLargeAnswer{}.Data)
)

func (e *entry) bytes() int { return (len(e.name)+7)/8*8 + len(e.records) }

func (e *entry) isSmall() bool { return e.bytes() <= smallAnswerBytes }

// fill writes the name and the records.
func (e *entry) fill(data []uint64) {
	n := copy(data, nameWords(e.name))
	copy(data[n:], nameWords(e.records))
	e.head.NameBytes, e.head.Bytes = uint8(len(e.name)), uint16(len(e.records))
}

func (e *entry) small() *sockSmallAnswer {
	v := new(sockSmallAnswer)
	e.fill(v.Data[:])
	v.Head, v.Stamp = e.head, e.head.Stamp
	return v
}

func (e *entry) large() (*sockLargeAnswer, error) {
	if e.bytes() > largeAnswerBytes {
		return nil, fmt.Errorf("%w: %d bytes, of %d", ErrTooLarge, e.bytes(), largeAnswerBytes)
	}
	v := new(sockLargeAnswer)
	e.fill(v.Data[:])
	v.Head, v.Stamp = e.head, e.head.Stamp
	return v, nil
}

// marker says that the answer is in the other map.
func (e *entry) marker() *sockSmallAnswer {
	return &sockSmallAnswer{Stamp: e.head.Stamp, Head: sockDnsAnswer{
		Stamp: e.head.Stamp, Type: e.head.Type, Scope: e.head.Scope, Flags: uint8(packetAnswerFlagsANSWER_LARGE),
	}}
}

// response is the entry as a message.
func (e *entry) response() []byte {
	b := make([]byte, headerBytes, headerBytes+len(e.name)+typeBytes+len(e.records))
	binary.BigEndian.PutUint16(b[2:], flagQR|swap16(e.head.Header))
	binary.BigEndian.PutUint16(b[4:], 1)
	for i, n := range e.head.Count {
		binary.BigEndian.PutUint16(b[6+2*i:], uint16(n))
	}
	b = append(b, e.name...)
	b = binary.BigEndian.AppendUint16(b, e.head.Type)
	b = binary.BigEndian.AppendUint16(b, classIN)
	return append(b, e.records...)
}

// newAnswer is the inverse of newEntry.
func newAnswer(head sockDnsAnswer, data []uint64, now time.Duration) (Answer, error) {
	b := make([]byte, 0, 8*len(data))
	for _, w := range data {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	at, n := (int(head.NameBytes)+7)/8*8, int(head.Bytes)
	if at+n > len(b) {
		return Answer{}, fmt.Errorf("read an answer: a name of %d bytes and records of %d: %d fit", head.NameBytes, n, len(b))
	}
	e := entry{name: b[:head.NameBytes], head: head, records: b[at : at+n]}
	a := Answer{
		AnswerKey: AnswerKey{Name: nameText(e.name), Type: head.Type, Scope: head.Scope},
		Age:       now - time.Duration(head.Born), Hits: head.Hits,
	}
	if head.Type == 0 {
		a.Names = NameFlags(head.Flags) & allNameFlags
		return a, nil
	}
	a.Aged = head.Flags&uint8(packetAnswerFlagsANSWER_AGED) != 0
	if head.Expires != 0 {
		a.Expires = time.Duration(head.Expires) - now
	}
	a.Response = e.response()
	return a, nil
}
