package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// packName turns a name from its presentation form into that of the wire (RFC 1035, 3.1 and 5.1), with letters folded.
func packName(text string) ([]byte, error) {
	wire, start := []byte{0}, 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '.' && text == ".":
			return wire, nil
		case c == '.':
			if wire[start] == 0 {
				return nil, fmt.Errorf("name %q has an empty label", text)
			}
			start = len(wire)
			wire = append(wire, 0)
			continue
		case c == '\\':
			var used int
			if c, used = unescape(text[i+1:]); used == 0 {
				return nil, fmt.Errorf("name %q ends in an escape", text)
			}
			i += used
		}
		wire = append(wire, lower(c))
		wire[start]++
		if wire[start] > maxLabelBytes {
			return nil, fmt.Errorf("name %q has a label of more than %d bytes", text, maxLabelBytes)
		}
	}
	if wire[start] != 0 {
		wire = append(wire, 0)
	}
	if len(wire) > maxNameBytes {
		return nil, fmt.Errorf("name %q has more than %d bytes", text, maxNameBytes)
	}
	return wire, nil
}

// unescape reads what follows a backslash, and says how much of it.
func unescape(text string) (c byte, used int) {
	if len(text) >= 3 && digit(text[0]) && digit(text[1]) && digit(text[2]) {
		return (text[0]-'0')*100 + (text[1]-'0')*10 + text[2] - '0', 3
	}
	if text == "" {
		return 0, 0
	}
	return text[0], 1
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// nameText is the inverse of packName.
func nameText(wire []byte) string {
	if len(wire) <= 1 {
		return "."
	}
	var b strings.Builder
	for at := 0; at < len(wire) && wire[at] != 0; at += 1 + int(wire[at]) {
		for _, c := range wire[at+1 : min(at+1+int(wire[at]), len(wire))] {
			switch {
			case strings.IndexByte(`.'"\();@ `, c) >= 0:
				b.WriteByte('\\')
				b.WriteByte(c)
			case c < '!' || c > '~':
				fmt.Fprintf(&b, "\\%03d", c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
	}
	return b.String()
}

// nameWords are the words of the maps, the last one filled up with zeros.
func nameWords(b []byte) []uint64 {
	words := make([]uint64, (len(b)+7)/8)
	for i := range words {
		var w [8]byte
		copy(w[:], b[8*i:])
		words[i] = binary.LittleEndian.Uint64(w[:])
	}
	return words
}

// A record is where one is in the records of a response.
type record struct {
	at, ttlAt, end int
	owner          string // as it is, pointers and all
	rrtype         uint16
}

func (r record) bytes() int { return r.end - r.at }

// swaps says whether two records may change places without anything that points to them being wrong.
func (r record) swaps(with record) bool {
	return r.rrtype == with.rrtype && r.owner == with.owner && r.bytes() == with.bytes()
}

// A message is a response taken apart. Its records are all that follows the question, without OPT.
type message struct {
	name    []byte // folded
	rrtype  uint16
	flags   uint16
	count   [3]uint8
	records []byte
	all     []record
}

var errShort = errors.New("the response is cut short")

func parseResponse(b []byte) (m message, err error) {
	if len(b) < headerBytes {
		return m, errShort
	}
	m.flags = binary.BigEndian.Uint16(b[2:])
	switch {
	case m.flags&flagQR == 0:
		return m, errors.New("the response is a question")
	case m.flags&flagTC != 0:
		return m, errors.New("the response is truncated")
	case binary.BigEndian.Uint16(b[4:]) != 1:
		return m, errors.New("the response has not one question")
	}
	end, err := skipName(b, headerBytes)
	if err != nil || end+typeBytes > len(b) {
		return m, errShort
	}
	for _, c := range b[headerBytes:end] {
		m.name = append(m.name, lower(c))
	}
	m.rrtype = binary.BigEndian.Uint16(b[end:])
	if binary.BigEndian.Uint16(b[end+2:]) != classIN {
		return m, errors.New("the response is not of class IN")
	}
	return m, m.parseRecords(b, end+typeBytes)
}

func (m *message) parseRecords(b []byte, base int) error {
	at := base
	for section := range m.count {
		for range binary.BigEndian.Uint16(b[6+2*section:]) {
			r, err := parseRecord(b, at)
			switch at = r.end; {
			case err != nil:
				return err
			case r.rrtype != typeOPT && m.count[section] == 255:
				return fmt.Errorf("%w: more than 255 records", ErrTooLarge)
			case r.rrtype != typeOPT:
				m.count[section]++
				m.all = append(m.all, record{r.at - base, r.ttlAt - base, r.end - base, r.owner, r.rrtype})
			case at != len(b):
				return fmt.Errorf("%w: OPT is not the last record", ErrTooLarge)
			default:
				b = b[:r.at]
			}
		}
	}
	if at < len(b) {
		return errors.New("the response goes on after its records")
	}
	m.records = b[base:]
	return nil
}

func parseRecord(b []byte, at int) (r record, err error) {
	r.at = at
	end, err := skipName(b, at)
	if err != nil || end+recordBytes > len(b) {
		return r, errShort
	}
	r.owner, r.rrtype, r.ttlAt = string(b[at:end]), binary.BigEndian.Uint16(b[end:]), end+4
	r.end = end + recordBytes + int(binary.BigEndian.Uint16(b[end+8:]))
	if r.end > len(b) {
		return r, errShort
	}
	return r, nil
}

// skipName returns where a name ends. Pointers are not followed.
func skipName(b []byte, at int) (int, error) {
	for at < len(b) {
		switch n := int(b[at]); {
		case n == 0:
			return at + 1, nil
		case n >= 0xc0 && at+2 <= len(b):
			return at + 2, nil
		case n > maxLabelBytes:
			return 0, errShort
		default:
			at += 1 + n
		}
	}
	return 0, errShort
}
